"""What happens to stores on disks in trouble; run in a mount namespace by `test_store_full.py`.

Each function gets the directory of a small tmpfs of its own. Outputs are compared in words, since
pytest does not explain assertions here.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner, Result

from eka.cli import cli
from eka_runtime.castore import intake
from eka_runtime.store.gc import collect
from eka_runtime.store.store import Store
from tests.stores import assert_clean
from tests.unit.nix.trees import Dir, File, Link, Tree, directory, to_disk
from tests.unit.store.graphs import held, needed

_PAGE = 4096
# Those of whoever runs the tests may be closed to the user that they run as.
_NO_SETTINGS = {"XDG_CONFIG_HOME": "/nonexistent"}

PACKED = Dir(tuple((b"f%03d" % n, File(os.urandom(30_000))) for n in range(60)))
LARGE = Dir(tuple((b"f%d" % n, File(os.urandom(600_000))) for n in range(3)))
ROWS = Dir(tuple((b"link-%05d" % n, Link(b"/target" * 10)) for n in range(8000)))
"""Trees of one or two megabytes: what small files have goes into a pack, what large ones have
into files, and links are in their directory, which is a row."""
APART = Dir(tuple((b"f%02d" % n, File(os.urandom(70_000))) for n in range(25)))
"""As LARGE, for files that another process writes."""
MIXED = Dir(((b"large", LARGE), (b"packed", PACKED), (b"rows", ROWS)))
TREES: dict[str, Tree] = {
    "packed": PACKED,
    "large": LARGE,
    "rows": ROWS,
    "mixed": MIXED,
    "apart": APART,
}


def eka(root: Path, *words: object) -> Result:
    arguments = ["store", "--store", str(root / "store"), *map(str, words)]
    return CliRunner().invoke(cli, arguments, prog_name="eka", env=_NO_SETTINGS)


def expect(result: Result, status: int, *texts: str) -> str:
    """Its stdout."""
    text = result.stdout + result.stderr
    assert result.exit_code == status, f"{result.exit_code}, not {status}: {text}"
    for wanted in texts:
        assert wanted in text, f"no `{wanted}` in: {text}"
    assert "Traceback" not in text, text
    return result.stdout


@contextmanager
def filled(root: Path, free: int) -> Iterator[None]:
    """Meanwhile no more than so many bytes are free."""
    filler = root / "filler"
    status = os.statvfs(root)
    size = status.f_bavail * status.f_frsize - free
    assert size >= 0, f"there are {size + free} bytes, not {free}"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(fd, 0, max(size, 1))
    os.close(fd)
    try:
        yield
    finally:
        filler.unlink()


def _begin(root: Path, source: Path) -> str:
    """A store with one path, which is to stay."""
    source.write_bytes(b"before")
    path = expect(eka(root, "add", source), 0).strip()
    expect(eka(root, "root", "add", path), 0)
    source.unlink()
    return path


def _tree(kind: str, outside: Path) -> Path:
    if kind == "apart":
        intake.APART_FROM = 2
    return to_disk(TREES[kind], outside / "tree")


def fails_until_it_fits(root: Path, outside: Path, kind: str) -> None:
    """Adds with more and more room until there is enough; whatever it lacks, nothing is harmed."""
    before = _begin(root, outside / "source")
    source = _tree(kind, outside)
    free, failures, found = 0, 0, ""
    while not found:
        with filled(root, free):
            result = eka(root, "add", source)
            if result.exit_code:
                expect(result, 24, "error: ", "hint: free some space")
                assert result.stdout == "", result.stdout
                print(f"{free}: {result.stderr.splitlines()[0]}")
                failures += 1
            found = result.stdout
        assert_clean(root / "store")
        if result.exit_code:
            # What a commit wrote that failed is not taken back: it may have reached the disk.
            expect(eka(root, "gc"), 0)
        expect(eka(root, "list"), 0, before)
        assert expect(eka(root, "cat", before), 0) == "before"
        free += _PAGE * (9 if free < 40 * _PAGE else 41)
    assert failures > 5, failures
    _is_whole(root, found.strip(), source, outside)


def the_same_works_with_room(root: Path, outside: Path, kind: str) -> None:
    """One failure in the middle, then success, and nothing is left of the failure."""
    _begin(root, outside / "source")
    source = _tree(kind, outside)
    with filled(root, 500_000):
        expect(eka(root, "add", source), 24)
    with Store.open(root / "store") as store:
        collect(store)
        assert held(store) == needed(store)
    found = expect(eka(root, "add", source), 0).strip()
    _is_whole(root, found, source, outside)


def _is_whole(root: Path, path: str, source: Path, outside: Path) -> None:
    expect(eka(root, "verify", "--deep"), 0)
    expect(eka(root, "restore", path, outside / "restored"), 0)
    subprocess.run(
        ["diff", "-r", "--no-dereference", source, outside / "restored"], check=True, stdout=2
    )


def collecting_makes_room(root: Path, outside: Path) -> None:
    """Where there is hardly any; removing needs a little for the database."""
    before = _begin(root, outside / "source")
    source = to_disk(LARGE, outside / "tree")
    expect(eka(root, "add", source), 0)
    with filled(root, 100 * _PAGE):
        expect(eka(root, "add", to_disk(PACKED, outside / "packed")), 24)
        assert int(expect(eka(root, "gc"), 0)) == 1_800_000
        expect(eka(root, "add", outside / "packed"), 0)
    expect(eka(root, "list"), 0, before)


def compaction_needs_room(root: Path, outside: Path) -> None:
    """A little at a time; where there is none, everything stays as it was."""
    rng = random.Random(0)
    files = {f"f{n:03}": File(bytes(rng.choices(b"0123456789", k=30_000))) for n in range(50)}
    source = to_disk(directory(**files), outside / "tree")
    path = expect(eka(root, "add", source), 0).strip()
    failures = 0
    for free in range(0, 1_500_000, 30 * _PAGE):
        with filled(root, free):
            result = eka(root, "compact")
        if result.exit_code:
            expect(result, 24, "error: ", "hint: ")
            failures += 1
        assert_clean(root / "store")
    assert failures > 2, failures
    assert result.exit_code == 0, result.stderr
    _is_whole(root, path, source, outside)


def a_new_store_needs_room(root: Path, outside: Path) -> None:
    (outside / "source").write_bytes(b"first")
    free = 0
    while True:
        with filled(root, free):
            result = eka(root, "add", outside / "source")
        if not result.exit_code:
            break
        expect(result, 24, "error: ", "hint: ")
        print(f"{free}: {result.stderr.splitlines()[0]}")
        free += _PAGE
    assert free > 10 * _PAGE, free
    assert_clean(root / "store")
    expect(eka(root, "cat", result.stdout.strip()), 0, "first")


def a_read_only_disk(root: Path, outside: Path) -> None:
    """From one moment to the next, as after an error of the disk."""
    before = _begin(root, outside / "source")
    source = to_disk(MIXED, outside / "tree")
    # Named with its source, since mount(8) would ask for the user of the options there are, too.
    subprocess.run(["mount", "-o", "remount,ro", "none", root], check=True)
    for words in (["add", source], ["gc"], ["compact"], ["root", "add", before, "x"]):
        expect(eka(root, *words), 24, "error: ", "hint: ")
    expect(eka(root, "root", "remove", "before"), 24, "error: ", "hint: ")
    expect(eka(root, "list"), 0, before)
    expect(eka(root, "verify", "--deep"), 0)
    assert expect(eka(root, "cat", before), 0) == "before"
    subprocess.run(["mount", "-o", "remount,rw", "none", root], check=True)
    expect(eka(root, "add", source), 0)


def a_disk_that_becomes_read_only(root: Path, outside: Path) -> None:
    """While the store is open and something is on its way in."""
    _begin(root, outside / "source")
    source = to_disk(PACKED, outside / "tree")
    with Store.open(root / "store") as store:
        # The kernel refuses to while a file is open for writing, so it is only mounted again.
        subprocess.run(["mount", "--bind", root, root], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
        expect(eka(root, "add", source), 24, "error: ", "hint: ")
        subprocess.run(["umount", "--lazy", root], check=True)
        store.add_tree(source)
    assert_clean(root / "store")
