from __future__ import annotations

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.directories import walk
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, SymlinkNode
from eka_runtime.castore.services import require_directory
from eka_runtime.errors import StoreCorrupt
from tests.unit.castore.local import Castore

LEAF = Directory(((b"link", SymlinkNode(b"target")),))
MIDDLE = Directory(((b"a", LEAF.node), (b"b", LEAF.node)))
ROOT = Directory(((b"leaf", LEAF.node), (b"middle", MIDDLE.node)))


def _add(castore: Castore, *directories: Directory) -> None:
    with castore.batch() as batch:
        for directory in directories:
            assert batch.add_directory(directory) == directory.node
        castore.commit(batch)


def test_directories_are_kept_under_their_digests(castore: Castore) -> None:
    _add(castore, LEAF, MIDDLE, LEAF)
    _add(castore, LEAF)
    assert castore.directories.get(LEAF.digest) == LEAF
    assert castore.directories.has(MIDDLE.digest)
    assert list(castore.directories.digests()) == sorted([LEAF.digest, MIDDLE.digest])


def test_what_is_not_there_is_none(castore: Castore) -> None:
    assert castore.directories.get(LEAF.digest) is None
    assert not castore.directories.has(LEAF.digest)
    with pytest.raises(StoreCorrupt, match="is missing"):
        require_directory(castore.directories, LEAF.digest)


def test_a_tree_comes_root_first_and_each_directory_once(castore: Castore) -> None:
    _add(castore, LEAF, MIDDLE, ROOT)
    tree = castore.directories.get_tree(ROOT.digest)
    assert tree is not None
    found = list(tree)
    assert found[0] == ROOT
    assert sorted(one.digest for one in found) == sorted(one.digest for one in (LEAF, MIDDLE, ROOT))
    lower = castore.directories.get_tree(LEAF.digest)
    assert lower is not None
    assert list(lower) == [LEAF]


def test_a_tree_that_is_not_there_is_none(castore: Castore) -> None:
    assert castore.directories.get_tree(ROOT.digest) is None


def test_a_tree_that_is_not_complete_says_so_when_it_gets_there(castore: Castore) -> None:
    _add(castore, ROOT, LEAF)
    tree = castore.directories.get_tree(ROOT.digest)
    assert tree is not None
    assert next(tree) == ROOT
    with pytest.raises(StoreCorrupt, match="is missing"):
        list(tree)


def test_a_tree_is_verified(damaged: Castore) -> None:
    _add(damaged, ROOT, MIDDLE, LEAF)
    damaged.database.connection.execute(
        "update directory set data = x'' where digest = ?", (LEAF.digest,)
    )
    tree = damaged.directories.get_tree(ROOT.digest)
    assert tree is not None
    with pytest.raises(StoreCorrupt, match="contents with digest"):
        list(tree)


def test_a_tree_may_be_very_deep(castore: Castore) -> None:
    levels = [LEAF]
    for _ in range(3000):
        levels.append(Directory(((b"d", levels[-1].node),)))
    _add(castore, *levels)
    tree = castore.directories.get_tree(levels[-1].digest)
    assert tree is not None
    assert list(tree) == levels[::-1]


def test_what_is_marked_can_be_read_but_is_not_alive(castore: Castore) -> None:
    _add(castore, LEAF)
    assert castore.directories.is_alive(LEAF.digest)
    castore.database.connection.execute("update directory set dead = 1")
    assert castore.directories.has(LEAF.digest)
    assert castore.directories.get(LEAF.digest) == LEAF
    assert not castore.directories.is_alive(LEAF.digest)
    assert not castore.directories.is_alive(ROOT.digest)


def test_walk_finds_each_directory_once(castore: Castore) -> None:
    _add(castore, LEAF, MIDDLE, ROOT)
    found = list(walk(ROOT.node, castore.directories))
    assert found[0] == (ROOT.node, ROOT)
    assert sorted(node.digest for node, _ in found) == sorted(
        one.digest for one in (LEAF, MIDDLE, ROOT)
    )
    assert list(walk(FileNode(B3Digest.of(b""), 0), castore.directories)) == []


def test_walk_refuses_a_wrong_size_wherever_it_is_stated(castore: Castore) -> None:
    liar = Directory(((b"a", LEAF.node), (b"b", DirectoryNode(LEAF.digest, 3))))
    _add(castore, LEAF, liar)
    with pytest.raises(StoreCorrupt, match="has size 2, not 3"):
        list(walk(liar.node, castore.directories))


def test_walk_names_what_is_missing(castore: Castore) -> None:
    _add(castore, ROOT)
    with pytest.raises(StoreCorrupt, match=r"directory blake3-\S+ is missing"):
        list(walk(ROOT.node, castore.directories))


@pytest.mark.parametrize(
    ("data", "message"),
    [(MIDDLE.encode(), "contents with digest"), (b"\x12", "contents with digest")],
)
def test_a_changed_row_is_damage(damaged: Castore, data: bytes, message: str) -> None:
    _add(damaged, LEAF)
    damaged.database.connection.execute("update directory set data = ?", (data,))
    with pytest.raises(StoreCorrupt, match=message):
        damaged.directories.get(LEAF.digest)


def test_a_row_that_is_no_directory_is_damage(damaged: Castore) -> None:
    data = b"\x12\x00"
    damaged.database.connection.execute(
        "insert into directory (digest, data) values (?, ?)", (B3Digest.of(data), data)
    )
    with pytest.raises(StoreCorrupt, match="digest has 0 bytes"):
        damaged.directories.get(B3Digest.of(data))
