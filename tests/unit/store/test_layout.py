"""Opening and making stores: formats, races, interrupted creations, stores of others."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eka_runtime.castore.epochs import oldest
from eka_runtime.errors import StoreAccessError, StoreError, StoreFormatError
from eka_runtime.store.layout import FORMAT, Layout, collector_lock, default_store_dir
from eka_runtime.store.store import Store
from tests.stores import problems, public_directory, race, snapshot, unprivileged


def test_a_new_store_says_its_format(store: Store) -> None:
    assert store.layout.format_file.read_bytes() == FORMAT.encode() + b"\n"
    assert store.layout.root == store.root
    assert {place.name for place in store.root.iterdir()} >= {
        *("blobs", "packs", "epochs", "tmp", "view", "db.sqlite")
    }


@pytest.mark.parametrize("text", ["eka-store 1\n", FORMAT, FORMAT + "\n\n", "", "\x00\xff" * 500])
def test_another_format_is_refused_and_nothing_is_touched(tmp_path: Path, text: str) -> None:
    (tmp_path / "format").write_text(text, "latin-1")
    before = snapshot(tmp_path)
    for create in (True, False):
        with pytest.raises(StoreFormatError, match="format") as caught:
            Store.open(tmp_path, create=create)
        assert caught.value.hint
    assert snapshot(tmp_path) == before


def test_a_directory_with_other_files_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for create in (True, False):
        with pytest.raises(StoreFormatError, match="not an eka store"):
            Store.open(tmp_path, create=create)
    assert snapshot(tmp_path) == {"notes.txt": b"mine"}


def test_without_create_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at") as caught:
        Store.open(tmp_path / "none", create=False)
    assert caught.value.hint
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="no store at"):
        Store.open(tmp_path / "empty", create=False)


def test_a_file_in_the_way_is_an_access_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreAccessError, match="Not a directory") as caught:
        Store.open(tmp_path / "file")
    assert caught.value.hint


def test_an_interrupted_creation_is_completed(store_dir: Path) -> None:
    (store_dir / "tmp").mkdir(parents=True)
    (store_dir / "tmp" / "format-0123456789abcdef").write_text("eka-")
    (store_dir / "lock").touch()
    with Store.open(store_dir) as store:
        assert store.paths.count() == 0
        # What is in the making belongs to somebody; the next collection takes what does not.
        (left,) = store.layout.tmp.iterdir()
        left.unlink()
    assert (store_dir / "format").read_text() == FORMAT + "\n"


_OPEN = """
import sys
from pathlib import Path
from eka_runtime.store.store import Store
sys.stdin.read()
with Store.open(Path(sys.argv[1])) as store:
    print(store.add_flat(sys.argv[2]).path)
"""


def test_creation_may_be_raced(store_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("contents")
    outputs = race(_OPEN, store_dir, tmp_path / "file", racers=4)
    assert len(set(outputs)) == 1


def test_an_open_store_holds_the_epoch_in_which_it_came(store_dir: Path) -> None:
    with Store.open(store_dir) as first:
        epochs = first.layout.epochs
        _end_epoch(first)
        with Store.open(store_dir) as second:
            assert (first.hold.epoch, second.hold.epoch) == (1, 2)
            _end_epoch(second)
            assert oldest(epochs, 3) == 1
            first.close()
            assert oldest(epochs, 3) == 2
        assert oldest(epochs, 3) == 3


def _end_epoch(store: Store) -> None:
    with store.database.transaction() as conn:
        conn.execute("update epoch set number = number + 1")


def test_an_open_store_does_not_hold_the_collector_up(store: Store) -> None:
    with Store.open(store.root), collector_lock(store.layout):
        with open(store.layout.lock, "rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Nor does it hold up those who come meanwhile.
        Store.open(store.root).close()
    with open(store.layout.lock, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_directories_that_a_copy_lost_are_made_again(store_dir: Path) -> None:
    with Store.open(store_dir) as store:
        for name in ("blobs", "packs", "tmp", "view"):
            (store_dir / name).rmdir()
    for place in (store_dir / "epochs").iterdir():
        place.unlink()
    (store_dir / "epochs").rmdir()
    with Store.open(store_dir) as store:
        for name in ("blobs", "packs", "epochs", "tmp", "view"):
            assert (store_dir / name).is_dir()
        assert os.listdir(store.layout.epochs) == ["1"]


def test_a_failed_open_leaves_no_descriptor(store_dir: Path) -> None:
    with Store.open(store_dir) as store:
        database = store.layout.database
    kept = database.read_bytes()
    database.write_bytes(b"not a database, " * 1000)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StoreError):
        Store.open(store_dir)
    assert os.listdir("/proc/self/fd") == before
    database.write_bytes(kept)


def test_a_store_of_another_user_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("contents")
    with public_directory() as directory:
        (directory / "public").write_text("for all")
        with Store.open(directory / "store") as store:
            path = store.add_flat(tmp_path / "file").path
        with (
            _without_write_permission(directory / "store"),
            unprivileged(),
            Store.open(directory / "store") as readonly,
        ):
            assert readonly.info(path).path == path
            assert problems(readonly) == []
            with pytest.raises(StoreAccessError) as caught:
                readonly.add_flat(directory / "public")
            assert caught.value.hint


@contextmanager
def _without_write_permission(root: Path) -> Iterator[None]:
    directories = [root, *(place for place in root.rglob("*") if place.is_dir())]
    for directory in directories:
        directory.chmod(0o555)
    yield
    for directory in directories:
        directory.chmod(0o755)


def test_the_store_may_be_moved(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("contents")
    with Store.open(tmp_path / "one") as store:
        path = store.add_flat(tmp_path / "file").path
    (tmp_path / "one").rename(tmp_path / "two")
    with Store.open(tmp_path / "two", create=False) as moved:
        assert [info.path for info in moved.paths.all()] == [path]
        assert problems(moved) == []


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"EKA_STORE": "/a/store", "XDG_DATA_HOME": "/data"}, "/a/store"),
        ({"XDG_DATA_HOME": "/data", "HOME": "/home/me"}, "/data/eka/store"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/home/me"}, "/home/me/.local/share/eka/store"),
        ({"HOME": "/home/me"}, "/home/me/.local/share/eka/store"),
    ],
)
def test_default_store_dir(environ: dict[str, str], expected: str) -> None:
    assert default_store_dir(environ) == Path(expected)


def test_names_are_below_the_root() -> None:
    layout = Layout(Path("/s"))
    assert layout.bind_view == Path("/s/view/bind/nix/store")
    assert layout.twins == Path("/s/view/twin")
    names = (layout.blobs, layout.packs, layout.epochs, layout.tmp, layout.views)
    assert [place.name for place in names] == ["blobs", "packs", "epochs", "tmp", "view"]
    assert {place.parent for place in (*names, layout.lock, layout.database)} == {Path("/s")}
