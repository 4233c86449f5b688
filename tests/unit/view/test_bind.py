"""The bind view: canonical checkouts that share inodes with the store, made once and safely."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.ingest import ingest_tree
from eka_runtime.castore.removal import remove_tree
from eka_runtime.errors import StoreAccessError, StoreCorrupt
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.bind import BindView
from eka_runtime.view.plan import ViewLink
from tests.stores import race
from tests.unit.castore.harm import remove


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Both modes of one content, a large file, a link, nothing, a name that is not UTF-8."""
    made = tmp_path / "tree"
    (made / "bin").mkdir(parents=True)
    (made / "empty").mkdir()
    (made / "bin" / "run").write_text("same content")
    (made / "bin" / "run").chmod(0o755)
    (made / "data").write_text("same content")
    (made / "large").write_bytes(b"large" * 20_000)
    (made / "link").symlink_to("bin/run")
    Path(os.fsdecode(os.fsencode(made) + b"/\xff")).write_text("")
    return made


def checkout(store: Store, info: PathInfo) -> Path:
    BindView(store).check_out([info])
    return store.layout.bind_view / info.path.base


def test_a_checkout_is_canonical(store: Store, tree: Path) -> None:
    place = checkout(store, store.add_tree(tree))
    found = {}
    for directory, names, files in os.walk(place):
        for name in (*names, *files, "."):
            status = os.lstat(os.path.join(directory, name))
            assert status.st_mtime_ns == 1_000_000_000
            relative = os.path.relpath(os.path.join(directory, name), place)
            found[relative] = stat.filemode(status.st_mode)
    assert {kind for name, kind in found.items() if kind[0] == "d"} == {"dr-xr-xr-x"}
    assert found["bin/run"] == "-r-xr-xr-x"
    assert found["data"] == "-r--r--r--"
    assert os.readlink(place / "link") == "bin/run"


def test_a_checkout_has_the_content_of_its_path(store: Store, tree: Path) -> None:
    info = store.add_tree(tree)
    place = checkout(store, info)
    with store.batch() as batch:
        assert isinstance(batch, Batch)
        assert ingest_tree(batch, place).node == info.node


def test_checkouts_share_inodes_with_the_store(store: Store, tree: Path) -> None:
    place = checkout(store, store.add_tree(tree))
    blobs = {entry.stat().st_ino for entry in store.layout.blobs.rglob("*") if entry.is_file()}
    assert os.stat(place / "large").st_ino in blobs
    other = tree.with_name("other")
    shutil.copytree(tree, other, symlinks=True)
    second = checkout(store, store.add_tree(other))
    for name in ("bin/run", "data", "large"):
        assert os.stat(place / name).st_ino == os.stat(second / name).st_ino


def test_a_checkout_is_made_once(store: Store, tree: Path) -> None:
    info = store.add_tree(tree)
    first = os.stat(checkout(store, info)).st_ino
    assert os.stat(checkout(store, info)).st_ino == first


def test_racing_checkouts_agree_and_leave_nothing(store: Store, tree: Path) -> None:
    info = store.add_tree(tree)
    ready = threading.Barrier(8)
    found: list[Path] = []

    def run() -> None:
        ready.wait()
        found.append(checkout(store, info))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert os.listdir(store.layout.bind_view) == [info.path.base]


def test_a_deleted_view_is_made_again(store: Store, tree: Path) -> None:
    info = store.add_tree(tree)
    checkout(store, info)
    remove_tree(store.layout.views)
    store.layout.views.mkdir()
    assert (checkout(store, info) / "data").read_text() == "same content"


def test_several_are_checked_out_at_once(store: Store, tmp_path: Path, tree: Path) -> None:
    (tmp_path / "file").write_text("same content")
    infos = [
        store.add_tree(tree),
        store.add_tree(tree, name="b"),
        store.add_tree(tmp_path / "file"),
    ]
    view = BindView(store)
    view.check_out(infos[:1])
    before = os.stat(store.layout.bind_view / infos[0].path.base)
    view.check_out(infos)
    view.check_out([])
    assert sorted(os.listdir(store.layout.bind_view)) == sorted(info.path.base for info in infos)
    places = [store.layout.bind_view / info.path.base for info in infos]
    assert os.stat(places[0]).st_ino == before.st_ino
    assert places[2].read_text() == "same content"
    for one, other in ((places[0] / "data", places[2]), (places[0] / "large", places[1] / "large")):
        assert one.samefile(other)
    assert _left_in_the_making(store) == []


def _left_in_the_making(store: Store) -> list[Path]:
    return [place for place in store.layout.views.rglob("*") if place.name.startswith(".new-")]


def test_a_path_that_comes_twice_is_checked_out_once(store: Store, tree: Path) -> None:
    info = store.add_tree(tree)
    BindView(store).check_out(iter([info, info]))
    assert os.listdir(store.layout.bind_view) == [info.path.base]
    plan = BindView(store).plan([info, info])
    assert {mount.destination for mount in plan.mounts} == {str(info.path)}


@pytest.mark.parametrize("inside", ["data", "large"], ids=["packed", "file"])
def test_damage_leaves_nothing_that_looks_whole(store_dir: Path, tree: Path, inside: str) -> None:
    root = store_dir.with_name("damaged")
    with Store.open(root) as store:
        sound = store.add_tree(tree / "link", name="sound")
        info = store.add_tree(tree)
        data = (tree / inside).read_bytes()
        row = store.blobs.row(B3Digest.of(data))
        assert row is not None
        remove(store.blobs, row)
        with pytest.raises(StoreCorrupt, match="is missing"):
            BindView(store).check_out([sound, info])
        assert os.listdir(store.layout.bind_view) == []
        assert _left_in_the_making(store) == []
        # With the contents added again it works.
        if inside == "large":
            store.add_tree(tree, name="again")
            assert (checkout(store, info) / inside).read_bytes() == data


_CHECK_OUT = """
import sys
from pathlib import Path
from eka_runtime.store.store import Store
from eka_runtime.view.bind import BindView
with Store.open(Path(sys.argv[1])) as store:
    infos = list(store.paths.all())
    sys.stdin.read()
    BindView(store).check_out(infos)
"""


def test_processes_check_out_the_same_at_once(store_dir: Path, tree: Path) -> None:
    with Store.open(store_dir) as store:
        infos = [store.add_tree(tree, name=f"n{number}") for number in range(5)]
    race(_CHECK_OUT, store_dir, racers=3)
    with Store.open(store_dir) as store:
        assert sorted(os.listdir(store.layout.bind_view)) == sorted(i.path.base for i in infos)
        assert _left_in_the_making(store) == []
        for info in infos:
            with store.batch() as batch:
                assert ingest_tree(batch, checkout(store, info)).node == info.node


def test_a_plan_has_mounts_and_links_in_order(store: Store, tmp_path: Path, tree: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "lonely").symlink_to("/nowhere")
    infos = [store.add_tree(tmp_path / name) for name in ("tree", "file", "lonely")]
    plan = BindView(store).plan(infos)
    assert plan.strategy == "bind"
    assert plan.links == (ViewLink(str(infos[2].path), "/nowhere"),)
    assert [mount.destination for mount in plan.mounts] == sorted(str(i.path) for i in infos[:2])
    kinds = {mount.destination: mount.directory for mount in plan.mounts}
    assert kinds == {str(infos[0].path): True, str(infos[1].path): False}
    assert plan == BindView(store).plan(infos[::-1])


def test_a_view_that_cannot_be_written_is_an_error(store: Store, tree: Path) -> None:
    info = store.add_tree(tree)
    store.layout.bind_view.parent.mkdir(parents=True, exist_ok=True)
    store.layout.bind_view.write_text("in the way")
    with pytest.raises(StoreAccessError, match="cannot check out"):
        checkout(store, info)
    store.layout.bind_view.unlink()
