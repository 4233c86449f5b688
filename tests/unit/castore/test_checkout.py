"""Checkouts: canonical trees made of links, copies as Nix restores them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from eka_runtime.castore.blobs import PACKED_MAX, BlobRow, LocalBlobs
from eka_runtime.castore.checkout import NEW_PREFIX, Linker, checkout
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.ingest import Ingested
from eka_runtime.castore.node import DirectoryNode, FileNode, Node
from eka_runtime.errors import StoreCorrupt
from tests.requirements import require
from tests.unit.castore.deep import deep_tree, remove_deep_tree
from tests.unit.castore.harm import remove, shorten
from tests.unit.castore.local import Castore, temporary
from tests.unit.castore.test_ingest import NASTY
from tests.unit.castore.test_render import _Remote
from tests.unit.nix.trees import File, Tree, directory, to_disk, trees

FILE = b"same" + bytes(PACKED_MAX)
SAME = directory(plain=File(FILE), program=File(FILE, True), other=File(b"other" + FILE, True))
PACKED = directory(plain=File(b"same"), program=File(b"same", True), other=File(b"other", True))

both = pytest.mark.parametrize("tree", [SAME, PACKED], ids=["files", "packed"])


def _check_out(castore: Castore, node: Node, dest: Path, **more: Any) -> Path:
    with Linker(castore.root / "twins", **more) as linker:
        checkout(node, dest, castore.blobs, castore.directories, link=linker)
        linker.settle()
    return dest


def _twins(castore: Castore) -> list[Path]:
    """Also those that are being made."""
    return [path for path in (castore.root / "twins").rglob("*") if path.is_file()]


def _walk(path: Path) -> Iterator[os.stat_result]:
    status = os.lstat(path)
    yield status
    if stat.S_ISDIR(status.st_mode):
        for name in os.listdir(path):
            yield from _walk(path / name)


def _assert_canonical(path: Path) -> None:
    for status in _walk(path):
        assert status.st_mtime_ns == 10**9
        mode = status.st_mode & 0o7777
        if stat.S_ISDIR(status.st_mode):
            assert mode == 0o555
        elif stat.S_ISREG(status.st_mode):
            assert mode == (0o555 if mode & 0o100 else 0o444)


@given(trees)
def test_any_tree_comes_back(tree: Tree) -> None:
    with temporary() as path, Castore.open(path / "castore") as castore:
        done = castore.add_tree(to_disk(tree, path / "source"))
        linked = _check_out(castore, done.node, path / "linked")
        _assert_canonical(linked)
        assert castore.add_tree(linked) == done
        checkout(done.node, path / "copy", castore.blobs, castore.directories, link=None)
        assert castore.add_tree(path / "copy") == done
        castore.check()


def _add(castore: Castore, tree: Tree, tmp_path: Path) -> Ingested:
    return castore.add_tree(to_disk(tree, tmp_path / "source"))


def _add_plain(castore: Castore) -> None:
    """Of contents that occur with both modes, whichever is written first has the blob's inode."""
    with castore.batch() as batch:
        batch.add_blob(FILE)
        castore.commit(batch)


def test_files_are_links_to_blobs_and_twins(castore: Castore, tmp_path: Path) -> None:
    _add_plain(castore)
    node = _add(castore, SAME, tmp_path).node
    dest = _check_out(castore, node, tmp_path / "dest")
    inodes = {path.stat().st_ino for path in castore.blobs.directory.rglob("*")}
    linked = {name: (dest / name).stat().st_ino in inodes for name in os.listdir(dest)}
    # The contents that occur with both modes have one inode beside the blob's.
    assert linked == {"plain": True, "program": False, "other": True}
    [twin] = _twins(castore)
    assert twin.samefile(dest / "program")
    again = _check_out(castore, node, tmp_path / "again")
    assert twin.samefile(again / "program")
    assert castore.blobs.path(B3Digest.of(FILE)) is not None
    assert [path.name for path in dest.rglob("*.*")] == []


def test_packed_blobs_have_one_twin_for_each_mode(castore: Castore, tmp_path: Path) -> None:
    node = _add(castore, directory(a=PACKED, b=PACKED), tmp_path).node
    dest = _check_out(castore, node, tmp_path / "dest")
    again = _check_out(castore, node, tmp_path / "again")
    assert len(_twins(castore)) == 3
    for name in ("plain", "program", "other"):
        [twin] = [twin for twin in _twins(castore) if twin.samefile(dest / "a" / name)]
        for place in (dest / "b", again / "a", again / "b"):
            assert twin.samefile(place / name)
    assert castore.files() == []


@both
def test_a_twin_has_a_name_when_it_is_settled(castore: Castore, tmp_path: Path, tree: Tree) -> None:
    node = _add(castore, tree, tmp_path).node
    with Linker(castore.root / "twins") as linker:
        checkout(node, tmp_path / "dest", castore.blobs, castore.directories, link=linker)
        made = _twins(castore)
        assert made
        assert {path.parent.name[: len(NEW_PREFIX)] for path in made} == {NEW_PREFIX}
        linker.settle()
        assert not any(path.exists() for path in made)
        assert len(_twins(castore)) == len(made)
    assert len(_twins(castore)) == len(made)
    assert not [path for path in (castore.root / "twins").glob(NEW_PREFIX + "*")]


@both
def test_what_was_not_settled_goes(castore: Castore, tmp_path: Path, tree: Tree) -> None:
    done = _add(castore, tree, tmp_path)
    with Linker(castore.root / "twins") as linker:
        checkout(done.node, tmp_path / "dest", castore.blobs, castore.directories, link=linker)
    assert _twins(castore) == []
    assert os.listdir(castore.root / "twins") == []
    # The checkout itself is whole.
    assert castore.add_tree(tmp_path / "dest") == done


@both
def test_two_may_settle_the_same_twins(castore: Castore, tmp_path: Path, tree: Tree) -> None:
    done = _add(castore, tree, tmp_path)
    with Linker(castore.root / "twins") as first, Linker(castore.root / "twins") as second:
        for name, linker in (("first", first), ("second", second)):
            dest = tmp_path / name
            checkout(done.node, dest, castore.blobs, castore.directories, link=linker)
        count = len(_twins(castore)) // 2
        first.settle()
        second.settle()
    assert len(_twins(castore)) == count
    for name in ("first", "second", "third"):
        if name == "third":
            _check_out(castore, done.node, tmp_path / name)
        assert castore.add_tree(tmp_path / name) == done
        _assert_canonical(tmp_path / name)


@both
def test_a_twin_that_a_collection_takes_is_made_again(
    castore: Castore, tmp_path: Path, tree: Tree
) -> None:
    done = _add(castore, tree, tmp_path)
    _check_out(castore, done.node, tmp_path / "first")

    taken: list[str] = []

    def link(source: str, dest: bytes, **more: Any) -> None:
        if "twins" in source and not taken:
            taken.append(source)
            os.unlink(source)
        os.link(source, dest, **more)

    second = _check_out(castore, done.node, tmp_path / "second", link=link)
    assert taken
    assert castore.add_tree(second) == done
    assert os.path.exists(taken[0])


def test_a_place_that_is_not_there_ends_it(castore: Castore, tmp_path: Path) -> None:
    node = _add(castore, File(b"x"), tmp_path).node
    calls: list[Any] = []

    def link(*args: Any, **more: Any) -> None:
        calls.append(args)
        if len(calls) > 100:
            pytest.fail("it would go on for ever")
        os.link(*args, **more)

    with pytest.raises(FileNotFoundError):
        _check_out(castore, node, tmp_path / "none" / "dest", link=link)


def test_the_umask_does_not_matter(castore: Castore, tmp_path: Path) -> None:
    node = _add(castore, NASTY, tmp_path).node
    previous = os.umask(0o077)
    try:
        _assert_canonical(_check_out(castore, node, tmp_path / "dest"))
    finally:
        os.umask(previous)


@both
@pytest.mark.parametrize("damage", ["shorter", "mode"])
def test_a_damaged_twin_is_replaced(
    castore: Castore, tmp_path: Path, damage: str, tree: Tree
) -> None:
    _add_plain(castore)
    done = _add(castore, tree, tmp_path)
    first = _check_out(castore, done.node, tmp_path / "first")
    twin = first / "program"
    twin.chmod(0o755)
    if damage == "shorter":
        twin.write_bytes(b"sam")
        twin.chmod(0o555)
    second = _check_out(castore, done.node, tmp_path / "second")
    assert castore.add_tree(second) == done
    _assert_canonical(second)


class _LimitedLink:
    """os.link on a file system with few links to a file."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.refused = 0

    def __call__(self, source: str, dest: bytes, **more: Any) -> None:
        if os.stat(source).st_nlink >= self._limit:
            self.refused += 1
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        os.link(source, dest, **more)


@pytest.mark.parametrize("contents", [b"same", FILE], ids=["packed", "file"])
@pytest.mark.parametrize("executable", [False, True])
def test_a_limit_on_links_takes_more_inodes(
    castore: Castore, tmp_path: Path, executable: bool, contents: bytes
) -> None:
    entries = {f"f{number:02}": File(contents, executable) for number in range(20)}
    done = _add(castore, directory(**entries, z=File(contents, not executable)), tmp_path)
    link = _LimitedLink(5)
    first = _check_out(castore, done.node, tmp_path / "first", link=link)
    assert castore.add_tree(first) == done
    _assert_canonical(first)
    # Each inode is given up once, not tried for every file.
    assert link.refused == 4
    inodes = Counter((first / name).stat().st_ino for name in entries)
    assert max(inodes.values()) <= 5
    second = _check_out(castore, done.node, tmp_path / "second", link=link)
    assert castore.add_tree(second) == done


def test_other_errors_of_links_are_raised(castore: Castore, tmp_path: Path) -> None:
    node = _add(castore, File(b"x"), tmp_path).node

    def refuse(*args: Any, **more: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    with pytest.raises(OSError, match="cross-device"):
        _check_out(castore, node, tmp_path / "dest", link=refuse)


def test_blobs_that_are_not_local_become_twins(castore: Castore, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    node = FileNode(B3Digest.of(data), len(data), True)
    for name in ("a", "b"):
        with Linker(castore.root / "twins") as linker:
            checkout(node, tmp_path / name, _Remote(data), castore.directories, link=linker)
            linker.settle()
        _assert_canonical(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == data
    assert (tmp_path / "a").samefile(tmp_path / "b")


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_a_copy_is_what_nix_restores(castore: Castore, tmp_path: Path, umask: int) -> None:
    node = _add(castore, directory(a=NASTY, b=File(bytes(3 << 20))), tmp_path).node
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    previous = os.umask(umask)
    try:
        checkout(node, ours, castore.blobs, castore.directories, link=None)
        dump = subprocess.run(
            [require("nix-store"), "--dump", ours], capture_output=True, check=True
        ).stdout
        subprocess.run([require("nix-store"), "--restore", theirs], input=dump, check=True)
    finally:
        os.umask(previous)
    for path in [theirs, *theirs.rglob("*")]:
        mine = ours / path.relative_to(theirs)
        assert mine.lstat().st_mode == path.lstat().st_mode, path
    again = subprocess.run(["nix-store", "--dump", theirs], capture_output=True, check=True)
    assert again.stdout == dump


def test_a_copy_shares_nothing_with_the_store(castore: Castore, tmp_path: Path) -> None:
    node = _add(castore, directory(a=File(b"x"), b=File(bytes(2 << 20))), tmp_path).node
    checkout(node, tmp_path / "copy", castore.blobs, castore.directories, link=None)
    for name in "ab":
        (tmp_path / "copy" / name).write_bytes(b"changed")


def test_nothing_is_overwritten(castore: Castore, tmp_path: Path) -> None:
    node = _add(castore, directory(a=File(b"x")), tmp_path).node
    (tmp_path / "dest").mkdir()
    for link in (None, Linker(castore.root / "twins")):
        with pytest.raises(FileExistsError):
            checkout(node, tmp_path / "dest", castore.blobs, castore.directories, link=link)


def _make(castore: Castore, node: Node, dest: Path, copy: bool) -> None:
    if copy:
        checkout(node, dest, castore.blobs, castore.directories, link=None)
    else:
        _check_out(castore, node, dest)


@pytest.mark.parametrize("contents", [b"Hello World", FILE], ids=["packed", "file"])
@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("damage", [shorten, remove])
def test_damage_is_noticed(
    damaged: Castore,
    tmp_path: Path,
    damage: Callable[[LocalBlobs, BlobRow], None],
    copy: bool,
    contents: bytes,
) -> None:
    done = _add(damaged, directory(a=File(contents)), tmp_path)
    [row] = damaged.blobs.rows()
    damage(damaged.blobs, row)
    message = f"has {row.size - 1} bytes, not {row.size}|ends before byte|is missing"
    with pytest.raises(StoreCorrupt, match=message):
        _make(damaged, done.node, tmp_path / "dest", copy)
    assert _twins(damaged) == []


@pytest.mark.parametrize("copy", [False, True])
def test_what_is_missing_is_named(castore: Castore, tmp_path: Path, copy: bool) -> None:
    missing = B3Digest.of(b"missing")
    nodes: list[Node] = [FileNode(missing, 7), DirectoryNode(missing, 2)]
    for number, node in enumerate(nodes):
        dest = tmp_path / f"{number}"
        with pytest.raises(StoreCorrupt, match="is missing"):
            _make(castore, node, dest, copy)
    assert _twins(castore) == []


def test_a_very_deep_tree() -> None:
    with temporary() as path, Castore.open(path / "castore") as castore:
        with deep_tree(path / "deep", 4000) as source:
            done = castore.add_tree(source)
        dest = _check_out(castore, done.node, path / "dest")
        again = castore.add_tree(dest)
        remove_deep_tree(dest, 4000)
        assert again == done


def test_a_large_file_is_copied_whole(castore: Castore, tmp_path: Path) -> None:
    contents = os.urandom((3 << 20) + 17)
    node = _add(castore, directory(a=File(contents), b=File(contents, True)), tmp_path).node
    dest = _check_out(castore, node, tmp_path / "dest")
    digests = {hashlib.sha256((dest / name).read_bytes()).digest() for name in "ab"}
    assert digests == {hashlib.sha256(contents).digest()}
    assert not (dest / "a").samefile(dest / "b")
