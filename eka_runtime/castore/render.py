"""A castore tree as a NAR, byte for byte what `nix-store --dump` gives for the same tree.

Streams: memory is bounded by the largest directory. Sizes are checked on the way, because a blob
of another size would make a NAR that no reader can parse; contents are not, which is what the
caller's NAR hash is for. Out of scope: what a NAR looks like (`eka_runtime.nix.nar`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from eka_runtime.castore.node import DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.castore.services import (
    BlobService,
    DirectoryService,
    require_blob,
    require_directory,
)
from eka_runtime.errors import StoreCorrupt
from eka_runtime.nix.nar import HashingWriter, NarWriter, Write


class NarDigest(NamedTuple):
    """SHA-256 and length in bytes of a NAR."""

    sha256: bytes
    size: int


def write_nar(node: Node, blobs: BlobService, directories: DirectoryService, write: Write) -> None:
    """Raises StoreCorrupt when something below `node` is missing or has another size.

    Part of the NAR may have been written then.
    """
    sink = NarWriter(write)
    open_directories: list[Iterator[tuple[bytes, Node]]] = [iter([(b"", node)])]
    while open_directories:
        for name, child in open_directories[-1]:
            if isinstance(child, DirectoryNode):
                sink.directory(name)
                open_directories.append(_entries(child, directories))
                break
            if isinstance(child, SymlinkNode):
                sink.symlink(name, child.target)
            else:
                _write_file(sink, name, child, blobs)
        else:
            open_directories.pop()
            if open_directories:
                sink.end_directory()


def nar_digest(node: Node, blobs: BlobService, directories: DirectoryService) -> NarDigest:
    hashing = HashingWriter()
    write_nar(node, blobs, directories, hashing.write)
    return NarDigest(hashing.digest(), hashing.size)


def nar_of(node: Node, blobs: BlobService, directories: DirectoryService) -> bytes:
    """All of it in memory: for small trees."""
    parts: list[bytes] = []
    write_nar(node, blobs, directories, parts.append)
    return b"".join(parts)


def _entries(node: DirectoryNode, directories: DirectoryService) -> Iterator[tuple[bytes, Node]]:
    directory = require_directory(directories, node.digest)
    if directory.size != node.size:
        raise StoreCorrupt(f"directory {node.digest} has size {directory.size}, not {node.size}")
    return iter(directory.entries)


def _write_file(sink: NarWriter, name: bytes, node: FileNode, blobs: BlobService) -> None:
    with require_blob(blobs, node.digest) as reader:
        checked = _SizedReader(reader, node)
        sink.file(name, node.executable, node.size, checked.read)
        checked.check_end()


class _SizedReader:
    """A blob of which more or less than its size is never read silently."""

    def __init__(self, reader: BinaryIO, node: FileNode) -> None:
        self._reader = reader
        self._node = node

    def read(self, size: int) -> bytes:
        data = self._reader.read(size)
        if not data:
            raise self._wrong_size("fewer")
        return data

    def check_end(self) -> None:
        if self._reader.read(1):
            raise self._wrong_size("more")

    def _wrong_size(self, how: str) -> StoreCorrupt:
        return StoreCorrupt(
            f"blob {self._node.digest} has {how} than {self._node.size} bytes",
            hint="run `eka store verify`",
        )
