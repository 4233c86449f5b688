"""Stores on disks that are full or read-only, and such that their owner may not write any more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eka_runtime.store.store import Store
from eka_runtime.view.bind import BindView
from tests.host.store_disk import eka, expect
from tests.installed import REPOSITORY
from tests.requirements import lacking, require
from tests.stores import assert_clean, public_directory, unprivileged

_NOBODY = 65534
# Nothing of the mount is left when the process ends.
_MOUNT = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'


def _on_a_small_disk(place: Path, function: str, *arguments: str) -> str:
    """Runs a function of store_disk.py with a mounted tmpfs; returns what it printed."""
    enter = [require("unshare"), "--user", "--map-root-user", "--mount"]
    root, outside = place / "root", place / "outside"
    for directory in (root, outside):
        directory.mkdir()
    mounted = [*enter, "sh", "-c", _MOUNT, "sh", "8m", root]
    if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        lacking("no user namespaces here, or no tmpfs in them")
    code = (
        f"import sys; from pathlib import Path; from tests.host.store_disk import {function} as f"
    )
    code += "; f(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])"
    command = [*mounted, sys.executable, "-c", code, root, outside, *arguments]
    done = subprocess.run(command, capture_output=True, check=False, cwd=REPOSITORY, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("packed", ("No space left on device",)),
        ("large", ("No space left on device",)),
        ("apart", ("No space left on device",)),
        ("rows", ("the disk is full",)),
        ("mixed", ("No space left on device", "the disk is full")),
    ],
)
def test_an_add_that_does_not_fit(tmp_path: Path, kind: str, texts: tuple[str, ...]) -> None:
    said = _on_a_small_disk(tmp_path, "fails_until_it_fits", kind)
    for text in texts:
        assert text in said


@pytest.mark.parametrize("kind", ["packed", "large", "apart", "rows", "mixed"])
def test_the_same_works_when_there_is_room(tmp_path: Path, kind: str) -> None:
    _on_a_small_disk(tmp_path, "the_same_works_with_room", kind)


@pytest.mark.parametrize(
    "function",
    [
        "collecting_makes_room",
        "compaction_needs_room",
        "a_new_store_needs_room",
        "a_read_only_disk",
        "a_disk_that_becomes_read_only",
    ],
)
def test_other_trouble(tmp_path: Path, function: str) -> None:
    _on_a_small_disk(tmp_path, function)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the user nobody has a store with one path, when the tests run as root."""
    with public_directory() as directory:
        if os.geteuid() == 0:
            os.chown(directory, _NOBODY, _NOBODY)
        with unprivileged():
            (directory / "first").write_bytes(b"first")
            (directory / "second").mkdir()
            (directory / "second" / "small").write_bytes(b"small")
            (directory / "second" / "large").write_bytes(b"large" * 100_000)
            expect(eka(directory, "add", directory / "first"), 0)
            yield directory


@contextmanager
def _lost(places: list[Path], rights: int) -> Iterator[None]:
    """Meanwhile nobody has these rights."""
    modes = {place: place.stat().st_mode for place in places}
    for place, mode in modes.items():
        place.chmod(mode & ~rights)
    try:
        yield
    finally:
        for place, mode in modes.items():
            place.chmod(mode)


@pytest.mark.parametrize("part", [".", "blobs", "packs", "tmp", "db.sqlite"])
def test_what_may_not_be_written(place: Path, part: str) -> None:
    store = place / "store"
    # A pack that is there could still be appended to.
    packs = list(store.glob("packs/*")) if part == "packs" else []
    with _lost([store / part, *packs], 0o222):
        expect(eka(place, "add", place / "second"), 24, "error: ", "hint: ")
        [first] = expect(eka(place, "list"), 0).split()
        assert expect(eka(place, "cat", first), 0) == "first"
        expect(eka(place, "verify", "--deep"), 0)
    for file in store.glob("db.sqlite-*"):
        # SQLite makes them with the mode of the database.
        file.chmod(0o644)
    assert_clean(store)
    second = expect(eka(place, "add", place / "second"), 0).strip()
    assert expect(eka(place, "cat", f"{second}/small"), 0) == "small"
    expect(eka(place, "gc"), 0)


@pytest.mark.parametrize("part", ["packs/*", "blobs/*", "view/bind/nix/*"])
def test_what_cannot_be_removed(place: Path, part: str) -> None:
    """The next collection does what this one could not."""
    expect(eka(place, "add", place / "second"), 0)
    with Store.open(place / "store") as store:
        BindView(store).check_out(store.paths.all())
    places = list((place / "store").glob(part))
    assert places
    with _lost(places, 0o222):
        expect(eka(place, "gc"), 24, "error: ", "hint: ")
    assert_clean(place / "store")
    expect(eka(place, "gc"), 0)
    assert expect(eka(place, "list"), 0) == ""
    for part in ("packs", "blobs/??", "view/bind/nix/store", "view/twin/??"):
        assert list((place / "store").glob(f"{part}/*")) == []


@pytest.mark.parametrize("part", [".", "blobs", "packs", "db.sqlite"])
def test_what_may_not_even_be_read(place: Path, part: str) -> None:
    with _lost([place / "store" / part], 0o777):
        for words in (["add", place / "second"], ["gc"]):
            expect(eka(place, *words), 24, "error: ", "hint: ")
        if part == "packs":
            expect(eka(place, "compact"), 24, "error: ", "hint: ")
    assert_clean(place / "store")
    expect(eka(place, "add", place / "second"), 0)
