"""All views show the same: names, kinds, modes, sizes, times, link targets and every byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from eka_runtime.store.store import Store
from tests.requirements import require
from tests.views import VIEWS, Show, Shown, show_fuse, show_mount

HOSTILE_NAMES = (b"\xff\xfe", b"new\nline", b"tab\t", b"-rf", b"*", b" ", b"a" * 255, b"\x01\x7f",
                 "é".encode(), b"con", b"...", b"\\", b"'\"", b"%s", b"{device}")  # fmt: skip

# No path has two slashes side by side.
_FIND = [
    r"(",
    r"-type",
    r"d",
    r"-printf",
    r"%P\0%y\0%m\0%T@//",
    r")",
    r"-o",
    r"-printf",
    r"%P\0%y\0%m\0%T@\0%s\0%l//",
]

_CONTENTS = """
import hashlib, os, sys
for directory, names, files in os.walk(os.fsencode(sys.argv[1])):
    names.sort()
    for name in sorted(files):
        path = os.path.join(directory, name)
        if not os.path.islink(path):
            with open(path, "rb") as stream:
                print(path[len(sys.argv[1]):], hashlib.file_digest(stream, "sha256").hexdigest())
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("trees") / "tree"
    (made / "deep" / "er").mkdir(parents=True)
    (made / "empty").mkdir()
    (made / "deep" / "run").write_text("#!/bin/sh\necho ran\n")
    (made / "deep" / "run").chmod(0o755)
    (made / "deep" / "er" / "data").write_text("#!/bin/sh\necho ran\n")
    (made / "nothing").write_text("")
    for size in (1, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 1 << 20, (5 << 20) + 1):
        (made / f"size-{size}").write_bytes(os.urandom(size))
    for target in (b"deep/run", b"/nowhere", b"\xff", b"x" * 4095, b"..", b" "):
        os.symlink(
            target, os.fsencode(made) + b"/link-%d" % len(target) + target[:1].hex().encode()
        )
    (made / "names").mkdir()
    for name in HOSTILE_NAMES:
        with open(os.fsencode(made / "names") + b"/" + name, "wb") as stream:
            stream.write(name)
    shutil.copytree(made / "deep", made / "copy")
    (made / "many").mkdir()
    for number in range(3000):
        (made / "many" / f"{number:04}-{'n' * (number % 50)}").write_text(str(number))
    return made


@pytest.fixture(scope="module")
def filled(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with the tree, and a file that is a path by itself."""
    with Store.open(tmp_path_factory.mktemp("views") / "store") as store:
        store.add_tree(tree)
        store.add_tree(tree / "size-4097")
        yield store


def shown(name: str, store: Store, tmp_path: Path) -> Shown:
    return VIEWS[name](store, list(store.paths.all()), tmp_path / "view")


def find(view: Shown, *more: str) -> list[bytes]:
    done = view.run(require("find"), view.place, "-mindepth", "1", *_FIND, *more)
    assert done.stderr == b""
    return sorted(done.stdout.split(b"//"))


@pytest.mark.parametrize("name", sorted(VIEWS.keys() - {"bind"}))
def test_listings_are_those_of_the_bind_view(filled: Store, tmp_path: Path, name: str) -> None:
    expected = find(shown("bind", filled, tmp_path))
    assert len(expected) > 3000
    assert find(shown(name, filled, tmp_path)) == expected


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_contents_are_those_that_were_added(
    filled: Store, tree: Path, tmp_path: Path, name: str
) -> None:
    view = shown(name, filled, tmp_path)
    found = view.python(_CONTENTS, view.place / base(filled))
    assert found.count(b"\n") > 3000
    assert found == Shown(tree).python(_CONTENTS, tree)


def base(store: Store) -> str:
    return next(info.path.base for info in store.paths.all() if info.path.name == "tree")


_READ_BADLY = """
import mmap, os, sys
data = open(sys.argv[1], "rb").read()
fd = os.open(sys.argv[1], os.O_RDONLY)
assert os.pread(fd, 10, len(data) - 3) == data[-3:]
assert os.pread(fd, 10, len(data)) == os.pread(fd, 10, 1 << 62) == b""
assert os.pread(fd, 70000, 12345) == data[12345:82345]
assert mmap.mmap(fd, 0, access=mmap.ACCESS_READ)[:] == data
assert os.sendfile(os.memfd_create("x"), fd, 0, len(data)) > 0
assert os.listxattr(sys.argv[1]) == []
for action in (
    lambda: os.getxattr(sys.argv[1], "user.x"),
    lambda: os.open(sys.argv[1], os.O_RDWR),
    lambda: os.unlink(sys.argv[1]),
    lambda: os.mkdir(os.path.dirname(sys.argv[1]) + "/new"),
    lambda: os.open(os.path.dirname(sys.argv[1]) + "/" + "x" * 256, os.O_RDONLY),
):
    try:
        action()
    except OSError as error:
        print(error.errno, end=" ")
"""


@pytest.mark.parametrize("show", [show_fuse, show_mount])
def test_odd_reads_and_every_way_of_writing(filled: Store, tmp_path: Path, show: Show) -> None:
    view = show(filled, list(filled.paths.all()), tmp_path / "view")
    place = view.place / base(filled) / "size-5242881"
    assert view.python(_READ_BADLY, place) == b"61 30 30 30 36 "


@pytest.mark.parametrize("name", ["fuse", "mount"])
def test_programs_execute_and_others_do_not(filled: Store, tmp_path: Path, name: str) -> None:
    view = shown(name, filled, tmp_path)
    place = view.place / base(filled)
    assert view.run(place / "deep" / "run").stdout == b"ran\n"
    assert view.run(place / "copy" / "run").stdout == b"ran\n"
    done = view.run("/bin/sh", "-c", f"exec {place}/deep/er/data")
    assert done.returncode == 126


@pytest.mark.parametrize("name", ["fuse", "mount"])
def test_links_of_store_paths_are_links(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("/nowhere/at/all")
    info = store.add_tree(tmp_path / "link")
    view = shown(name, store, tmp_path)
    assert view.run("readlink", view.place / info.path.base).stdout == b"/nowhere/at/all\n"


def test_a_closure_is_all_there_is(filled: Store, tmp_path: Path) -> None:
    infos = [info for info in filled.paths.all() if info.path.name != "tree"]
    view = show_fuse(filled, infos, tmp_path)
    assert view.run("ls", "-A", view.place).stdout.decode() == f"{infos[0].path.base}\n"
    missing = view.run("stat", view.place / base(filled))
    assert b"No such file" in missing.stderr
