"""A castore tree as a NAR, byte for byte what `nix-store --dump` gives for the same tree.

Streams: memory is bounded by the largest directory. Sizes are checked on the way, because a blob
of another size would make a NAR that no reader can parse; contents are not, which is what the
caller's NAR hash is for. Out of scope: what a NAR looks like (`eka_runtime.nix.nar`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

from eka_runtime.castore.node import DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.castore.services import (
    BlobService,
    DirectoryService,
    SmallBlobs,
    blob_pieces,
    require_directory,
)
from eka_runtime.errors import StoreCorrupt
from eka_runtime.nix.nar import HashingWriter, NarWriter, Write

Entry = tuple[bytes, Node]

# Bounds memory: so many files of less than so many bytes are read at once.
_AT_ONCE = 256
_SMALL = 1 << 16


class NarDigest(NamedTuple):
    """SHA-256 and length in bytes of a NAR."""

    sha256: bytes
    size: int


def write_nar(node: Node, blobs: BlobService, directories: DirectoryService, write: Write) -> None:
    """Raises StoreCorrupt when something below `node` is missing or has another size.

    Part of the NAR may have been written then.
    """
    sink = NarWriter(write)
    levels = [with_contents([(b"", node)], blobs)]
    while levels:
        for name, child, data in levels[-1]:
            if data is not None:
                sink.file_data(name, isinstance(child, FileNode) and child.executable, data)
            elif isinstance(child, DirectoryNode):
                sink.directory(name)
                levels.append(with_contents(directory_entries(child, directories), blobs))
                break
            elif isinstance(child, SymlinkNode):
                sink.symlink(name, child.target)
            else:
                _write_file(sink, name, child, blobs)
        else:
            levels.pop()
            if levels:
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


def directory_entries(node: DirectoryNode, directories: DirectoryService) -> Sequence[Entry]:
    """Raises StoreCorrupt when it is missing or has another size than `node` says."""
    directory = require_directory(directories, node.digest)
    if directory.size != node.size:
        raise StoreCorrupt(f"directory {node.digest} has size {directory.size}, not {node.size}")
    return directory.entries


def with_contents(
    entries: Sequence[Entry], blobs: BlobService
) -> Iterator[tuple[bytes, Node, bytes | None]]:
    """Adds the contents of small files where they are had at once; None for everything else."""
    many = blobs if isinstance(blobs, SmallBlobs) else None
    for first in range(0, len(entries), _AT_ONCE):
        some = entries[first : first + _AT_ONCE]
        small = [node for _, node in some if type(node) is FileNode and node.size < _SMALL]
        found: Iterator[bytes | None] = repeat(None)
        if many is not None and small:
            found = iter(many.read_small([node.digest for node in small]))
        for name, node in some:
            data = None
            if type(node) is FileNode and node.size < _SMALL:
                data = next(found)
                # Of another size: the way with checks says so.
                if data is not None and len(data) != node.size:
                    data = None
            yield name, node, data


def _write_file(sink: NarWriter, name: bytes, node: FileNode, blobs: BlobService) -> None:
    pieces = blob_pieces(blobs, node.digest, node.size)
    # Not longer than what is asked for: both know the same size.
    sink.file(name, node.executable, node.size, lambda size: next(pieces, b""))
    # To its end, where sizes are compared.
    next(pieces, None)
