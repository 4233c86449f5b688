"""The castore as a file system, without a kernel: inodes, verification, and what is kept."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from eka_runtime.castore.blobs import BlobRow
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.errors import ServiceError
from eka_runtime.linux.fuse import ROOT_ID, Slow
from eka_runtime.store.store import Store
from eka_runtime.view import castore_fs
from eka_runtime.view.castore_fs import AllPaths, CastoreFs, Fixed, Sources
from eka_runtime.view.verified import SMALL, Verified
from tests.stores import link_info
from tests.unit.castore.harm import change, shorten


class Memory:
    """Blobs and directories of which some are missing or wrong; counts what was asked."""

    def __init__(self) -> None:
        self.contents: dict[B3Digest, bytes] = {}
        self.directories: dict[B3Digest, Directory] = {}
        self.asked: list[B3Digest] = []
        self.failing = False

    def has(self, digest: B3Digest) -> bool:
        return digest in self.contents

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        self.asked.append(digest)
        if self.failing:
            raise ServiceError("nobody answers")
        data = self.contents.get(digest)
        return None if data is None else BytesIO(data)

    def get(self, digest: B3Digest) -> Directory | None:
        self.asked.append(digest)
        return self.directories.get(digest)

    def file(self, data: bytes, *, executable: bool = False) -> FileNode:
        digest = B3Digest.of(data)
        self.contents[digest] = data
        return FileNode(digest, len(data), executable)

    def directory(self, **entries: Node) -> DirectoryNode:
        made = Directory.build((name.encode(), node) for name, node in entries.items())
        self.directories[made.digest] = made
        return made.node


@pytest.fixture
def memory() -> Memory:
    return Memory()


Make = Callable[..., CastoreFs]


@pytest.fixture
def logged() -> list[str]:
    return []


@pytest.fixture
def make(memory: Memory, logged: list[str]) -> Iterator[Make]:
    """A file system with these names in its root."""
    made: list[CastoreFs] = []

    def build(*, local: bool = True, **entries: Node) -> CastoreFs:
        root = Directory.build((name.encode(), node) for name, node in entries.items())
        made.append(CastoreFs(Sources(Fixed(root), memory, memory, local), logged.append))
        return made[-1]

    yield build
    for files in made:
        files.close()


def node_of(entry: bytes | None) -> int:
    assert entry is not None
    return int(struct.unpack_from("=Q", entry)[0])


def attributes(files: CastoreFs, node: int) -> dict[str, int]:
    names = "inode size blocks atime mtime ctime an mn cn mode nlink uid gid rdev blksize flags"
    return dict(zip(names.split(), struct.unpack("=6Q10I", files.attributes(node)), strict=True))


def look(files: CastoreFs, *names: bytes) -> int:
    node = ROOT_ID
    for name in names:
        node = node_of(files.lookup(node, name))
    return node


def test_attributes(memory: Memory, make: Make) -> None:
    files = make(
        d=memory.directory(),
        f=memory.file(b"x" * 4097),
        l=SymlinkNode(b"a/b"),
        x=memory.file(b"x", executable=True),
    )
    found = {name: attributes(files, look(files, name)) for name in (b"d", b"f", b"l", b"x")}
    modes = {name: oct(one["mode"]) for name, one in found.items()}
    assert modes == {b"d": "0o40555", b"f": "0o100444", b"l": "0o120777", b"x": "0o100555"}
    assert [found[name]["size"] for name in (b"f", b"l", b"x")] == [4097, 3, 1]
    assert {(one["mtime"], one["nlink"]) for one in found.values()} == {(1, 1)}
    assert found[b"f"]["blocks"] == 16
    assert attributes(files, ROOT_ID)["mode"] == 0o40555


def test_contents_are_one_inode_and_each_mode_has_its_own(memory: Memory, make: Make) -> None:
    one, other = memory.file(b"same"), memory.file(b"same", executable=True)
    files = make(a=one, b=one, c=other, d=memory.directory(e=one))
    a, b, c, e = (look(files, *p) for p in ((b"a",), (b"b",), (b"c",), (b"d", b"e")))
    assert a == b == e != c
    assert attributes(files, a)["inode"] ^ 1 == attributes(files, c)["inode"]


def test_a_directory_is_an_inode_for_every_place(memory: Memory, make: Make) -> None:
    shared = memory.directory(f=memory.file(b"x"))
    places = [(b"a",), (b"b",), (b"c", b"a"), (b"c", b"d")]
    files = make(a=shared, b=shared, c=memory.directory(a=shared, d=shared))
    nodes = [look(files, *place) for place in places]
    assert len({attributes(files, node)["inode"] for node in nodes}) == 4
    assert len(set(nodes)) == 4
    again = make(a=shared, b=shared, c=memory.directory(a=shared, d=shared))
    for place, node in zip(places, nodes, strict=True):
        assert attributes(again, look(again, *place)) == attributes(files, node)


def test_what_is_forgotten_is_not_kept(memory: Memory, make: Make) -> None:
    files = make(a=memory.file(b"x"))
    node = look(files, b"a")
    assert look(files, b"a") == node
    files.forget(node, 1)
    assert files.read(node, 0, 9) == b"x"
    files.forget(node, 1)
    files.forget(node, 1)
    with pytest.raises(OSError, match="inode") as caught:
        files.read(node, 0, 9)
    assert caught.value.errno == errno.ESTALE
    assert look(files, b"a") != node


@pytest.mark.parametrize("size", [5, SMALL, SMALL + 1, 3_000_000])
@pytest.mark.parametrize("harm", ["other", "short", "long", "missing", "failing"])
def test_nothing_wrong_is_shown(
    memory: Memory, make: Make, logged: list[str], size: int, harm: str
) -> None:
    node = memory.file(b"x" * size)
    harmed = {"other": b"y" * size, "short": b"x" * (size - 1), "long": b"x" * (size + 1)}
    memory.contents.pop(node.digest)
    if harm in harmed:
        memory.contents[node.digest] = harmed[harm]
    memory.failing = harm == "failing"
    files = make(local=False, f=node)
    inode = look(files, b"f")
    for _ in range(2):
        with pytest.raises(Slow) as slow:
            files.read(inode, 0, 1)
        with pytest.raises(OSError, match="blob") as caught:
            slow.value.work()
        assert caught.value.errno == errno.EIO
    assert len(logged) == 2
    assert str(node.digest) in logged[0]
    # Later it may be there.
    memory.contents[node.digest], memory.failing = b"x" * size, False
    with pytest.raises(Slow) as slow:
        files.read(inode, 0, 1)
    slow.value.work()
    assert bytes(files.read(inode, size - 2, 9)) == b"xx"


@pytest.mark.parametrize("stated", [4, 6, 1 << 40, (1 << 64) - 1])
def test_a_size_that_is_a_lie(memory: Memory, make: Make, stated: int) -> None:
    right = memory.file(b"hello")
    files = make(local=False, f=right._replace(size=stated), right=right)
    with pytest.raises(Slow) as slow:
        files.read(look(files, b"right"), 0, 1)
    slow.value.work()
    inode = look(files, b"f")
    assert attributes(files, inode)["size"] == stated
    with pytest.raises(Slow) as slow:
        files.read(inode, 0, 1)
    with pytest.raises(OSError, match="blob"):
        slow.value.work()


def test_an_empty_file_needs_no_blob(memory: Memory, make: Make) -> None:
    node = memory.file(b"")
    memory.contents.clear()
    files = make(f=node)
    assert files.read(look(files, b"f"), 0, 9) == b""


def test_small_contents_are_read_at_once_and_then_kept(memory: Memory, make: Make) -> None:
    files = make(f=memory.file(b"0123456789"))
    inode = look(files, b"f")
    assert [bytes(files.read(inode, n, 4)) for n in (0, 4, 8, 12, 1 << 63)] == [
        b"0123", b"4567", b"89", b"", b"",
    ]  # fmt: skip
    assert len(memory.asked) == 1


def test_what_is_kept_is_bounded(memory: Memory) -> None:
    verified = Verified(memory)
    small = [memory.file(bytes([n]) * SMALL) for n in range(200)]
    large = [memory.file(bytes([n]) * (SMALL + 1)) for n in range(100)]
    for node in (*small, *large):
        verified.fetch(node[:2])
    kept = [node for node in (*small, *large) if verified.read(node[:2], 0, 1) is not None]
    assert len(kept) == 128 + 64
    assert kept[-1] is large[-1]
    verified.close()
    assert verified.read(large[-1][:2], 0, 1) is None


def test_directories_are_kept_by_what_is_in_them(
    memory: Memory, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(castore_fs, "_KEPT_ENTRIES", 10)
    huge = memory.directory(**{f"n{n:03}": SymlinkNode(b"x") for n in range(100)})
    files = make(h=huge, s=memory.directory(a=SymlinkNode(b"y")))
    h, s = look(files, b"h"), look(files, b"s")
    for _ in range(3):
        assert len(files.listing(h)) == 100
    assert memory.asked == [huge.digest]
    files.listing(s)
    files.listing(h)
    assert len(memory.asked) == 3


def test_far_directories_are_waited_for(memory: Memory, make: Make, logged: list[str]) -> None:
    inner = memory.directory(f=memory.file(b"x"))
    missing = Directory.build([(b"q", SymlinkNode(b"q"))]).node
    files = make(local=False, d=memory.directory(i=inner, m=missing))
    d = look(files, b"d")
    with pytest.raises(Slow) as slow:
        files.lookup(d, b"i")
    slow.value.work()
    assert files.lookup(d, b"none") is None
    assert [name for name, _ in files.listing(d)] == [b"i", b"m"]
    m = look(files, b"d", b"m")
    with pytest.raises(Slow) as slow:
        files.listing(m)
    with pytest.raises(OSError, match="directory") as caught:
        slow.value.work()
    assert caught.value.errno == errno.EIO
    assert "is missing" in logged[0]


def test_what_cannot_be_done_with_a_node(memory: Memory, make: Make) -> None:
    files = make(d=memory.directory(), f=memory.file(b"x"), l=SymlinkNode(b"t"))
    d, f, link = (look(files, name) for name in (b"d", b"f", b"l"))
    assert files.read_link(link) == b"t"
    for action, code in (
        (lambda: files.read(d, 0, 1), errno.EINVAL),
        (lambda: files.read(link, 0, 1), errno.EINVAL),
        (lambda: files.read_link(f), errno.EINVAL),
        (lambda: files.listing(f), errno.ENOTDIR),
        (lambda: files.lookup(link, b"x"), errno.ENOTDIR),
        (lambda: files.attributes(99), errno.ESTALE),
    ):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            cast(Callable[[], object], action)()
        assert caught.value.errno == code


def test_all_paths_are_those_of_now(store: Store, tmp_path: Path, logged: list[str]) -> None:
    (tmp_path / "a").write_text("a")
    first = store.add_tree(tmp_path / "a")
    paths = AllPaths(store.paths)
    files = CastoreFs(Sources(paths, store.blobs, store.directories, True), logged.append)
    name = first.path.base.encode()
    assert bytes(files.read(look(files, name), 0, 9)) == b"a"
    second = store.add_tree(tmp_path / "a", name="b")
    assert [name for name, _ in files.listing(ROOT_ID)] == sorted(
        info.path.base.encode() for info in (first, second)
    )
    look(files, second.path.base.encode())
    wrong = [name + b"x", name[:33] + b"other", b"x", b"\xff", link_info("no").path.base.encode()]
    assert [files.lookup(ROOT_ID, one) for one in wrong] == [None] * 5
    files.close()


@pytest.fixture
def own(damaged: Store, logged: list[str]) -> Iterator[CastoreFs]:
    """The tree of `damaged`, as `p`."""
    [info] = damaged.paths.all()
    root = Fixed(Directory.build([(b"p", info.node)]))
    files = CastoreFs(Sources(root, damaged.blobs, damaged.directories, True), logged.append)
    yield files
    files.close()


def row_of(store: Store, data: bytes) -> BlobRow:
    row = store.blobs.row(B3Digest.of(data))
    assert row is not None
    return row


@pytest.mark.parametrize("inside", [(b"small",), (b"sub", b"large")])
def test_a_store_that_is_damaged(
    damaged: Store, own: CastoreFs, logged: list[str], inside: tuple[bytes, ...]
) -> None:
    data = b"small" if inside == (b"small",) else b"large" * 100_000
    change(damaged.blobs, row_of(damaged, data), at=3)
    with pytest.raises(OSError, match="blob") as caught:
        own.read(look(own, b"p", *inside), 0, 1)
    assert caught.value.errno == errno.EIO
    assert len(logged) == 1


def test_a_file_that_becomes_shorter_afterwards(damaged: Store, own: CastoreFs) -> None:
    large = look(own, b"p", b"sub", b"large")
    assert bytes(own.read(large, 499_995, 99)) == b"large"
    shorten(damaged.blobs, row_of(damaged, b"large" * 100_000))
    with pytest.raises(OSError, match="shorter"):
        own.read(large, 499_995, 99)
