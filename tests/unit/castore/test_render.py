from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import BinaryIO

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, SymlinkNode
from eka_runtime.castore.render import nar_digest, nar_of, write_nar
from eka_runtime.errors import StoreCorrupt
from tests.unit.castore.local import Castore, naive_nar
from tests.unit.castore.test_ingest import NASTY
from tests.unit.nix.trees import File, Link, directory, to_disk


class _Remote:
    """A BlobService without files that trickles, as a network may."""

    def __init__(self, *contents: bytes) -> None:
        self._contents = {B3Digest.of(data): data for data in contents}

    def has(self, digest: B3Digest) -> bool:
        return digest in self._contents

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        data = self._contents.get(digest)
        return None if data is None else _Trickle(data)


class _Trickle(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size, 7) if size and size > 0 else size)


def test_digest_and_bytes_agree(castore: Castore, tmp_path: Path) -> None:
    node = castore.add_tree(to_disk(NASTY, tmp_path / "source")).node
    nar = nar_of(node, castore.blobs, castore.directories)
    digest = nar_digest(node, castore.blobs, castore.directories)
    assert digest == (hashlib.sha256(nar).digest(), len(nar))


def test_any_blob_service_will_do(castore: Castore) -> None:
    data = bytes(range(256)) * 10
    blobs = _Remote(data)
    node = FileNode(B3Digest.of(data), len(data), True)
    assert nar_of(node, blobs, castore.directories) == naive_nar(File(data, True))


def test_a_symlink_needs_no_service(castore: Castore) -> None:
    assert nar_of(SymlinkNode(b"t"), castore.blobs, castore.directories) == naive_nar(Link(b"t"))


@pytest.mark.parametrize("stated", [0, 10, 12, 1 << 30])
def test_a_blob_of_another_size_is_damage(castore: Castore, stated: int) -> None:
    with castore.batch() as batch:
        digest = batch.add_blob(b"Hello World")
        castore.commit(batch)
    how = "more" if stated < 11 else "fewer"
    with pytest.raises(StoreCorrupt, match=f"has {how} than {stated} bytes"):
        nar_of(FileNode(digest, stated), castore.blobs, castore.directories)


def test_a_directory_of_another_size_is_damage(castore: Castore) -> None:
    with castore.batch() as batch:
        node = batch.add_directory(Directory(()))
        castore.commit(batch)
    with pytest.raises(StoreCorrupt, match="has size 0, not 2"):
        nar_of(DirectoryNode(node.digest, 2), castore.blobs, castore.directories)


def test_what_is_missing_is_named(castore: Castore) -> None:
    missing = B3Digest.of(b"missing")
    for node in (FileNode(missing, 7), DirectoryNode(missing, 2)):
        with pytest.raises(StoreCorrupt, match="is missing") as caught:
            nar_of(node, castore.blobs, castore.directories)
        assert str(missing) in str(caught.value)


def test_it_streams(castore: Castore, tmp_path: Path) -> None:
    big = File(bytes(5 << 20))
    node = castore.add_tree(to_disk(directory(a=big, b=big), tmp_path / "source")).node
    sizes: list[int] = []
    write_nar(node, castore.blobs, castore.directories, lambda data: sizes.append(len(data)))
    assert max(sizes) <= 1 << 20
    assert sum(sizes) > 10 << 20
