"""NARs that are pulled: the same bytes as those that are pushed, and the same errors."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.nar_source import NarSource
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, Node
from eka_runtime.errors import StoreCorrupt
from tests.unit.castore.local import Castore, naive_nar, temporary
from tests.unit.nix.trees import File, Tree, directory, to_nar, trees


def pulled(castore: Castore, node: Node, sizes: random.Random | None = None) -> bytes:
    source = NarSource(node, castore.blobs, castore.directories)

    def piece() -> bytes:
        return source.read(sizes.randint(1, 1 << 12) if sizes else 1 << 20)

    return b"".join(iter(piece, b""))


@settings(max_examples=40, deadline=None)
@given(trees)
def test_the_nar_of_any_tree(tree: Tree) -> None:
    with temporary() as place, Castore.open(place / "castore") as castore:
        node = castore.add_nar(to_nar(tree)).node
        assert pulled(castore, node) == naive_nar(tree)


def test_in_pieces_of_any_size(castore: Castore) -> None:
    big = random.Random(0).randbytes(3 << 20)
    tree = directory(big=File(big), run=File(b"#!", executable=True), zero=File(b""))
    node = castore.add_nar(to_nar(tree)).node
    source = NarSource(node, castore.blobs, castore.directories)
    assert len(source.read(10)) == 10
    assert pulled(castore, node, random.Random(1)) == naive_nar(tree)


@pytest.mark.parametrize(("stated", "how"), [(10, "more"), (12, "fewer"), (1 << 60, "fewer")])
def test_a_blob_of_another_size_is_damage(castore: Castore, stated: int, how: str) -> None:
    node = castore.add_nar(to_nar(File(b"Hello World"))).node
    assert isinstance(node, FileNode)
    with pytest.raises(StoreCorrupt, match=f"{how} than {stated} bytes"):
        pulled(castore, node._replace(size=stated))


def test_what_is_missing_is_named(castore: Castore) -> None:
    lost = FileNode(B3Digest.of(b"lost"), 4)
    with pytest.raises(StoreCorrupt, match=re.escape(str(lost.digest))):
        pulled(castore, lost)
    with pytest.raises(StoreCorrupt, match="directory"):
        pulled(castore, DirectoryNode(B3Digest.of(b"lost"), 0))


def test_a_directory_of_another_size_is_damage(castore: Castore) -> None:
    node = castore.add_nar(to_nar(directory(a=File(b"")))).node
    assert isinstance(node, DirectoryNode)
    assert Directory.build([(b"a", FileNode(B3Digest.of(b""), 0))]).node == node
    with pytest.raises(StoreCorrupt, match="size 2, not 3"):
        pulled(castore, node._replace(size=3))
