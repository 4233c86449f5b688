"""Bundles of directories: as snix lays them out, read back whole, and against malice."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.castore import objectstore_directories
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, SymlinkNode
from eka_runtime.castore.objects import MemoryObjects, read_object
from eka_runtime.castore.objectstore_directories import ObjectDirectories
from eka_runtime.castore.tree_order import children
from eka_runtime.errors import CastoreError, StoreCorrupt
from tests.unit.castore.test_node import FIXTURES

LEAF = Directory(())
OTHER = Directory.build([(b"link", SymlinkNode(b"target"))])
MIDDLE = Directory.build([(b"a", LEAF.node), (b"file", FileNode(B3Digest.of(b""), 0))])
# LEAF is below it twice, and once more below MIDDLE.
ROOT = Directory.build(
    [(b"a", LEAF.node), (b"m", MIDDLE.node), (b"o", OTHER.node), (b"z", LEAF.node)]
)
LEAVES_FIRST = [LEAF, OTHER, MIDDLE, ROOT]
ROOT_FIRST = [ROOT, LEAF, MIDDLE, OTHER]


class Watched(MemoryObjects):
    """Knows which of its readers are still open."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[BinaryIO] = []

    def get(self, key: str) -> BinaryIO | None:
        reader = super().get(key)
        self.readers += [reader] if reader else []
        return reader


@pytest.fixture
def objects() -> Watched:
    return Watched()


@pytest.fixture
def directories(objects: Watched) -> ObjectDirectories:
    return ObjectDirectories(objects)


def _key(directory: Directory) -> str:
    digits = directory.digest.hex()
    return f"dirs/b3/{digits[:4]}/{digits}"


def _tree(directories: ObjectDirectories, root: Directory) -> list[Directory]:
    tree = directories.get_tree(root.digest)
    assert tree is not None
    return list(tree)


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _frames(found: Iterable[Directory]) -> bytes:
    return b"".join(_frame(directory.encode()) for directory in found)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def test_a_bundle_lies_where_snix_has_it(tmp_path: Path) -> None:
    directories = ObjectDirectories.from_url(f"objectstore+file://{tmp_path}")
    assert directories.put_tree(LEAVES_FIRST) == ROOT.digest
    files = [
        os.path.relpath(os.path.join(at, name), tmp_path)
        for at, _, names in os.walk(tmp_path)
        for name in names
    ]
    assert files == [_key(ROOT)]
    stored = (tmp_path / _key(ROOT)).read_bytes()
    # As a streaming encoder writes it: no content size, checksum or dictionary.
    assert stored[:6] == bytes.fromhex("28b52ffd 00 58")
    contents = zstandard.ZstdDecompressor().decompressobj().decompress(stored)
    assert contents == _frames(ROOT_FIRST)
    assert _tree(directories, ROOT) == ROOT_FIRST


@pytest.mark.parametrize("name", ["A", "WITH_KEEP", "B", "C"])
def test_trees_of_snixs_fixtures(directories: ObjectDirectories, name: str) -> None:
    root = FIXTURES[f"castore/dir/DIRECTORY_{name}"]
    tree = [LEAF, root] if list(children(root)) else [root]
    assert directories.put_tree(tree) == root.digest
    assert _tree(directories, root) == tree[::-1]


def test_only_roots_are_found(directories: ObjectDirectories) -> None:
    directories.put_tree(LEAVES_FIRST)
    assert directories.get(ROOT.digest) == ROOT
    for below in (LEAF, MIDDLE, OTHER):
        assert directories.get(below.digest) is None
        assert directories.get_tree(below.digest) is None


def test_a_base_goes_before_the_keys(objects: Watched) -> None:
    directories = ObjectDirectories(objects, "some/base")
    directories.put_tree([LEAF])
    assert list(objects.list("some")) == [f"some/base/{_key(LEAF)}"]
    assert directories.get(LEAF.digest) == LEAF


@given(st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=1, max_size=30))
def test_what_was_put_is_got(shape: list[list[int]]) -> None:
    made = [LEAF]
    for number, below in enumerate(shape):
        entries = [(b"%d" % at, made[index % len(made)].node) for at, index in enumerate(below)]
        link = (b"link", SymlinkNode(b"%d" % number))
        made.append(Directory.build([*entries, (b"last", made[-1].node), link]))
    objects = MemoryObjects()
    directories = ObjectDirectories(objects)
    # One that comes again does no harm.
    assert directories.put_tree([made[0], *made]) == made[-1].digest
    found = _tree(directories, made[-1])
    assert found == _breadth_first(made)


def _breadth_first(made: list[Directory]) -> list[Directory]:
    known = {directory.digest: directory for directory in made}
    order = [made[-1]]
    for directory in order:
        for _, node in directory.entries:
            if isinstance(node, DirectoryNode) and known[node.digest] not in order:
                order.append(known[node.digest])
    return order


def test_a_tree_that_does_not_fit_into_memory_goes_through_files(
    directories: ObjectDirectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectstore_directories, "_IN_MEMORY", 10)
    directories.put_tree(LEAVES_FIRST)
    assert _tree(directories, ROOT) == ROOT_FIRST


_WRONG = Directory.build([(b"x", DirectoryNode(LEAF.digest, 7))])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "one directory or more, not none"),
        ([ROOT], "did not come before it"),
        ([LEAF, MIDDLE, ROOT, OTHER], "did not come before it"),
        ([LEAF, OTHER], "not one tree"),
        ([*LEAVES_FIRST, OTHER], "not one tree"),
        ([LEAF, _WRONG], "has size 0, not 7"),
    ],
)
def test_what_is_not_one_whole_tree_is_refused(
    directories: ObjectDirectories, objects: Watched, tree: list[Directory], message: str
) -> None:
    with pytest.raises(CastoreError, match=message):
        directories.put_tree(tree)
    assert list(objects.list("dirs")) == []


def test_directories_that_could_not_be_read_again_are_not_written(
    directories: ObjectDirectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectstore_directories, "MAX_DIRECTORY", 10)
    with pytest.raises(CastoreError, match="more than 10"):
        directories.put_tree(LEAVES_FIRST)


def test_a_source_that_fails_leaves_no_bundle(
    directories: ObjectDirectories, objects: Watched
) -> None:
    def tree() -> Iterator[Directory]:
        yield LEAF
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        directories.put_tree(tree())
    assert list(objects.list("dirs")) == []


_STORED = _zstd(_frames(ROOT_FIRST))

BUNDLES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "lacks 1 directories"),
    "an empty frame": (_zstd(b""), "lacks 1 directories"),
    "not zstd": (b"x" * 100, "zstd"),
    "cut off": (_STORED[: len(_STORED) // 2], "lacks 1 directories"),
    "cut off in a length": (_zstd(_frames(ROOT_FIRST)[:2]), "is cut off"),
    "cut off in a directory": (_zstd(_frames(ROOT_FIRST)[:-1]), "is cut off"),
    "one less": (_zstd(_frames(ROOT_FIRST[:-1])), "lacks 1 directories"),
    "one more": (_zstd(_frames([*ROOT_FIRST, _WRONG])), "out of place"),
    "one twice": (_zstd(_frames([*ROOT_FIRST, LEAF])), "out of place"),
    "leaves first": (_zstd(_frames(LEAVES_FIRST)), "out of place"),
    "another root": (_zstd(_frames([MIDDLE, LEAF])), "out of place"),
    "not canonical": (_zstd(_frame(b"\x0a\x00")), "invalid directory"),
    "too long": (_zstd(b"\x10\x00\x00\x01" + bytes(100)), "a directory of 268435457 bytes"),
    "less than it says": (_zstd(b"\x10\x00\x00\x00" + bytes(100)), "is cut off"),
}


@pytest.mark.parametrize(("stored", "message"), BUNDLES.values(), ids=list(BUNDLES))
def test_a_damaged_bundle_is_never_believed(
    directories: ObjectDirectories, objects: Watched, stored: bytes, message: str
) -> None:
    objects.put(_key(ROOT), stored)
    with pytest.raises(StoreCorrupt, match=message):
        _tree(directories, ROOT)
    assert all(reader.closed for reader in objects.readers)


def test_a_size_that_is_not_the_directorys_is_never_believed(
    directories: ObjectDirectories, objects: Watched
) -> None:
    objects.put(_key(_WRONG), _zstd(_frames([_WRONG, LEAF])))
    with pytest.raises(StoreCorrupt, match="has size 0, not 7"):
        _tree(directories, _WRONG)


@given(st.integers(0, len(_STORED) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_changes_nothing(index: int, change: int) -> None:
    stored = bytearray(_STORED)
    stored[index] ^= change
    objects = MemoryObjects()
    objects.put(_key(ROOT), bytes(stored))
    try:
        found = _tree(ObjectDirectories(objects), ROOT)
    except StoreCorrupt:
        return
    assert found == ROOT_FIRST


LEFT_EARLY: list[Callable[[ObjectDirectories], object]] = [
    lambda directories: directories.get_tree(ROOT.digest),
    lambda directories: next(directories.get_tree(ROOT.digest) or iter([])),
    lambda directories: directories.get(ROOT.digest),
]


@pytest.mark.parametrize("work", LEFT_EARLY)
def test_a_tree_that_is_left_early_is_closed(
    directories: ObjectDirectories,
    objects: Watched,
    work: Callable[[ObjectDirectories], object],
) -> None:
    directories.put_tree(LEAVES_FIRST)
    work(directories)
    assert [reader.closed for reader in objects.readers] == [True]


def test_frames_may_come_in_small_pieces(
    directories: ObjectDirectories, objects: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(1)

    directories.put_tree(LEAVES_FIRST)
    stored = read_object(objects, _key(ROOT), 1000)
    assert stored is not None
    monkeypatch.setattr(objects, "get", lambda key: Slow(stored))
    assert _tree(directories, ROOT) == ROOT_FIRST
