"""Trees between services: order, completeness, bounds. The checks themselves: test_tree_order."""

from __future__ import annotations

import random

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, FileNode
from eka_runtime.castore.services import require_directory
from eka_runtime.castore.tree_order import upward
from eka_runtime.castore.trees import Tree, leaves_first
from eka_runtime.errors import CastoreError, StoreCorrupt


def some_directories(seed: int, count: int = 40) -> list[Directory]:
    """Leaves first; each names some of those before, the last one all that nobody named."""
    choose = random.Random(seed)
    made: list[Directory] = []
    unnamed: set[int] = set()
    for number in range(count):
        last = number == count - 1
        below = unnamed if last else choose.sample(range(number), choose.randint(0, min(3, number)))
        entries = [(b"%d" % child, made[child].node) for child in below]
        file = (b"file", FileNode(B3Digest.of(b"%d" % number), 1))
        made.append(Directory.build([*entries, file]))
        unnamed = unnamed - set(below) | {number}
    return made


@pytest.mark.parametrize("seed", range(20))
def test_leaves_come_first_whatever_names_what(seed: int) -> None:
    directories = some_directories(seed)
    root = directories[-1].digest
    tree = Tree({directory.digest: directory for directory in directories})
    ordered = list(leaves_first(root, tree))
    assert list(upward(ordered)) == ordered
    assert {one.digest for one in ordered} == {one.digest for one in tree}


def test_deeper_than_the_stack() -> None:
    directory = Directory(())
    directories = {directory.digest: directory}
    for _ in range(5000):
        directory = Directory(((b"d", directory.node),))
        directories[directory.digest] = directory
    ordered = list(leaves_first(directory.digest, Tree(directories)))
    assert len(ordered) == 5001
    assert ordered[-1] == directory


def test_a_tree_is_received_whole_or_not_at_all() -> None:
    directories = some_directories(1)[::-1]
    root = directories[0].digest
    tree = Tree.receive(root, _downward(directories))
    assert list(tree) == _downward(directories)
    assert require_directory(tree, root) == directories[0]
    with pytest.raises(StoreCorrupt):
        Tree.receive(root, _downward(directories)[:-1])
    with pytest.raises(StoreCorrupt):
        Tree.receive(B3Digest.of(b""), _downward(directories))
    with pytest.raises(CastoreError, match="more than 100 bytes"):
        Tree.receive(root, _downward(directories), maximum=100)


def _downward(directories: list[Directory]) -> list[Directory]:
    by_digest = {directory.digest: directory for directory in directories}
    return list(leaves_first(directories[0].digest, Tree(by_digest)))[::-1]
