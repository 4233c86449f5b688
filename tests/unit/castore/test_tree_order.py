"""Both orders of travel: what is one tree passes, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode
from eka_runtime.castore.tree_order import breadth_first, downward, upward
from eka_runtime.errors import CastoreError, StoreCorrupt

EMPTY = Directory(())
FILE = FileNode(B3Digest.of(b""), 0)


class Known(dict[B3Digest, Directory]):
    def __init__(self, *directories: Directory) -> None:
        super().__init__((directory.digest, directory) for directory in directories)

    def get(self, digest: B3Digest) -> Directory | None:  # type: ignore[override]
        return super().get(digest)


def above(*children: Directory) -> Directory:
    return Directory.build((b"%d" % i, child.node) for i, child in enumerate(children))


def leaf(name: bytes) -> Directory:
    return Directory(((name, FILE),))


A, B = leaf(b"a"), leaf(b"b")
MIDDLE = above(A, B)
TOP = above(MIDDLE, A, A, EMPTY)
UP = [A, B, EMPTY, MIDDLE, TOP]
DOWN = [TOP, MIDDLE, A, EMPTY, B]

# A pyramid of directories, in each of which are some of those below.
pyramids = st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=8)


def pyramid(shape: list[list[int]]) -> list[Directory]:
    """Leaves first; the last one has all the others below it, directly or not."""
    found = [EMPTY]
    for row in shape:
        found.append(above(found[-1], *(found[i % len(found)] for i in row)))
    return found


@given(pyramids)
def test_a_tree_passes_both_ways(shape: list[list[int]]) -> None:
    tree = pyramid(shape)
    root = tree[-1].digest
    assert list(upward(tree)) == tree
    sent = breadth_first(root, Known(*tree))
    assert sent is not None
    assert list(downward(root, list(sent))) == list(breadth_first(root, Known(*tree)) or ())


def test_breadth_first_is_the_order_of_snix() -> None:
    assert list(breadth_first(TOP.digest, Known(*UP)) or ()) == DOWN
    assert breadth_first(TOP.digest, Known(A)) is None
    with pytest.raises(StoreCorrupt, match="is missing"):
        list(breadth_first(TOP.digest, Known(TOP, A)) or ())


def test_any_order_from_the_top_will_do() -> None:
    depth_first = [TOP, EMPTY, MIDDLE, B, A]
    assert list(downward(TOP.digest, depth_first)) == depth_first


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ([], "lacks 1"),
        ([A], "out of place"),
        ([TOP, B], "out of place"),
        ([TOP, MIDDLE, A, A], "out of place"),
        ([TOP, MIDDLE, leaf(b"stranger")], "out of place"),
        (DOWN[:-1], "lacks 1"),
        ([*DOWN, TOP], "out of place"),
    ],
)
def test_what_is_no_tree_from_the_top_is_corrupt(sent: list[Directory], problem: str) -> None:
    with pytest.raises(StoreCorrupt, match=problem):
        list(downward(TOP.digest, sent))


@pytest.mark.parametrize("first", [True, False])
def test_sizes_are_checked_from_the_top(first: bool) -> None:
    right, wrong = (b"x", A.node), (b"y", DirectoryNode(A.digest, 3))
    liar = Directory.build([right, wrong] if first else [wrong])
    with pytest.raises(StoreCorrupt, match=r"has size \d, not \d"):
        list(downward(liar.digest, [liar, A]))


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ([], "not none"),
        ([A, B], "2 are in no other"),
        ([TOP], "did not come before it"),
        (DOWN, "did not come before it"),
        ([A, above(A), A], "in no other"),
        ([A, B, MIDDLE, EMPTY], "2 are in no other"),
        ([A, Directory(((b"x", DirectoryNode(A.digest, 3)),))], "has size 2, not 3"),
    ],
)
def test_what_is_no_tree_from_its_leaves_is_refused(sent: list[Directory], problem: str) -> None:
    with pytest.raises(CastoreError, match=problem):
        list(upward(sent))


def test_a_directory_that_comes_twice_passes_once() -> None:
    assert list(upward([A, A, B, MIDDLE, B, MIDDLE])) == [A, B, MIDDLE]
