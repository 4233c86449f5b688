"""Near and far as one: what is asked where, what is kept, and what never is. With real stores."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.layered import LayeredBlobs, LayeredDirectories
from eka_runtime.castore.node import Directory, DirectoryNode
from eka_runtime.castore.tree_order import breadth_first
from eka_runtime.errors import StoreCorrupt
from eka_runtime.store.local_services import LocalServices
from eka_runtime.store.store import Store
from tests.unit.nix.trees import File, Link, directory, to_disk

TREE = directory(
    sub=directory(again=directory(x=File(b"x" * 200_000)), y=File(b"y")), link=Link(b"sub")
)


@pytest.fixture
def near(tmp_path: Path) -> Iterator[LocalServices]:
    with Store.open(tmp_path / "near") as store:
        yield LocalServices.of(store)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[LocalServices]:
    with Store.open(tmp_path / "far") as store:
        yield LocalServices.of(store)


@pytest.fixture
def root(far: LocalServices, tmp_path: Path) -> DirectoryNode:
    """A tree that only far has."""
    with Store.open(tmp_path / "far") as store:
        node = store.add_tree(to_disk(TREE, tmp_path / "tree")).node
    assert isinstance(node, DirectoryNode)
    return node


def contents(blobs: LayeredBlobs, digest: B3Digest) -> bytes:
    reader = blobs.open_read(digest)
    assert reader is not None
    with reader:
        return reader.read()


def test_a_blob_of_far_may_be_bounded(
    near: LocalServices, far: LocalServices, root: DirectoryNode
) -> None:
    large = B3Digest.of(b"x" * 200_000)
    with pytest.raises(StoreCorrupt, match="more than 199999 bytes"):
        LayeredBlobs(near.blobs, far.blobs, 199_999).open_read(large)
    assert not near.blobs.has(large)
    assert contents(LayeredBlobs(near.blobs, far.blobs, 200_000), large) == b"x" * 200_000


def test_a_blob_of_far_is_kept_near(
    near: LocalServices, far: LocalServices, root: DirectoryNode
) -> None:
    blobs = LayeredBlobs(near.blobs, far.blobs)
    large = B3Digest.of(b"x" * 200_000)
    assert blobs.has(large)
    assert not near.blobs.has(large)
    assert contents(blobs, large) == b"x" * 200_000
    assert near.blobs.has(large)
    assert contents(LayeredBlobs(near.blobs, _Nobody()), large) == b"x" * 200_000
    assert not blobs.has(B3Digest.of(b"nowhere"))
    assert blobs.open_read(B3Digest.of(b"nowhere")) is None


def test_writes_go_near(near: LocalServices, far: LocalServices) -> None:
    digest = LayeredBlobs(near.blobs, far.blobs).put(io.BytesIO(b"new").read)
    assert near.blobs.has(digest)
    assert not far.blobs.has(digest)
    leaf = Directory(())
    LayeredDirectories(near.directories, far.directories).put_tree([leaf])
    assert near.directories.get(leaf.digest) == leaf
    assert far.directories.get(leaf.digest) is None


def test_other_contents_are_not_given_out(near: LocalServices) -> None:
    blobs = LayeredBlobs(near.blobs, _Liar())
    with pytest.raises(StoreCorrupt, match="gave contents with digest"):
        blobs.open_read(B3Digest.of(b"truth"))
    assert not near.blobs.has(B3Digest.of(b"truth"))


def test_a_directory_comes_with_all_below_it(
    near: LocalServices, far: LocalServices, root: DirectoryNode
) -> None:
    directories = LayeredDirectories(near.directories, far.directories)
    found = directories.get(root.digest)
    assert found is not None
    assert found.digest == root.digest
    alone = breadth_first(root.digest, near.directories)
    assert alone is not None
    assert len(list(alone)) == 3
    assert directories.get(B3Digest.of(b"nowhere")) is None


def test_a_tree_of_far_is_kept_near(
    near: LocalServices, far: LocalServices, root: DirectoryNode
) -> None:
    directories = LayeredDirectories(near.directories, far.directories)
    sent = directories.get_tree(root.digest)
    assert sent is not None
    assert len(list(sent)) == 3
    again = LayeredDirectories(near.directories, near.directories).get_tree(root.digest)
    assert again is not None
    assert len(list(again)) == 3
    assert directories.get_tree(B3Digest.of(b"nowhere")) is None


class _Nobody:
    def has(self, digest: B3Digest) -> bool:
        return False

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        raise AssertionError("far was asked for what is near")


class _Liar:
    def has(self, digest: B3Digest) -> bool:
        return True

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        return io.BytesIO(b"lie")
