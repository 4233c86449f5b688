"""A castore tree as a NAR that is pulled, from any byte on, where `render.py` pushes.

Whoever reads decides when the next blob is opened, so a tree may come from far away and go into a
parser without a thread or a pipe between them, and servers answer clients that ask for ranges: what
precedes the first byte is passed over by sizes alone, so that no blob before it is opened. Small
files are read many at once; memory is bounded by the largest directory. Sizes are checked on the
way, contents are not: that is what NAR hashes are for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eka_runtime.castore.node import DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.castore.render import Entry, directory_entries, with_contents
from eka_runtime.castore.services import BlobService, DirectoryService, blob_pieces
from eka_runtime.nix.nar import (
    DIRECTORY_OPEN,
    ENTRY_CLOSE,
    MAGIC,
    NODE_CLOSE,
    entry_open,
    file_header,
    padding,
    symlink,
)

_PIECE = 1 << 18

# Bytes at hand, or a file whose contents come here.
_Part = bytes | FileNode


def nar_size(node: Node, directories: DirectoryService) -> int:
    """Bytes of the whole NAR; reads directories only."""
    parts = _parts(node, None, directories)
    return sum(part.size if isinstance(part, FileNode) else len(part) for part in parts)


def nar_pieces(
    node: Node, blobs: BlobService, directories: DirectoryService, start: int = 0
) -> Iterator[bytes]:
    """The NAR from byte `start` on, in pieces of some 256 KiB.

    Raises StoreCorrupt when something below the node is missing or has another size.
    """
    pending: list[bytes] = []
    size = 0
    for part in _bytes(_parts(node, None if start else blobs, directories), blobs, start):
        pending.append(part)
        size += len(part)
        if size >= _PIECE:
            yield b"".join(pending)
            pending, size = [], 0
    if size:
        yield b"".join(pending)


class NarSource:
    """`read(n)` returns 1..n bytes of the NAR, b"" at its end.

    It raises StoreCorrupt when something below the node is missing or has another size, and what
    the services raise.
    """

    def __init__(self, node: Node, blobs: BlobService, directories: DirectoryService) -> None:
        self._pieces = nar_pieces(node, blobs, directories)
        self._piece = b""
        self._position = 0

    def read(self, size: int) -> bytes:
        if self._position == len(self._piece):
            self._piece, self._position = next(self._pieces, b""), 0
        data = self._piece[self._position : self._position + size]
        self._position += len(data)
        return data


def _bytes(parts: Iterator[_Part], blobs: BlobService, skip: int) -> Iterator[bytes]:
    for part in parts:
        size = part.size if isinstance(part, FileNode) else len(part)
        if skip >= size:
            skip -= size
            continue
        if isinstance(part, FileNode):
            yield from blob_pieces(blobs, part.digest, part.size, skip)
        else:
            yield part[skip:]
        skip = 0


def _parts(node: Node, blobs: BlobService | None, directories: DirectoryService) -> Iterator[_Part]:
    yield MAGIC
    levels = [_entries([(b"", node)], blobs)]
    while levels:
        nested = len(levels) > 1
        for name, child, data in levels[-1]:
            if nested:
                yield entry_open(name)
            if isinstance(child, DirectoryNode):
                yield DIRECTORY_OPEN
                levels.append(_entries(directory_entries(child, directories), blobs))
                break
            if isinstance(child, SymlinkNode):
                yield symlink(child.target)
            else:
                yield file_header(child.executable, child.size)
                yield child if data is None else data
                yield padding(child.size) + NODE_CLOSE
            if nested:
                yield ENTRY_CLOSE
        else:
            levels.pop()
            if levels:
                yield NODE_CLOSE
            if len(levels) > 1:
                yield ENTRY_CLOSE


def _entries(
    entries: Sequence[Entry], blobs: BlobService | None
) -> Iterator[tuple[bytes, Node, bytes | None]]:
    if blobs is not None:
        return with_contents(entries, blobs)
    return ((name, node, None) for name, node in entries)
