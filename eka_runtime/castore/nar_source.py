"""A castore tree as a NAR that is pulled, where `render.py` pushes.

Whoever reads decides when the next blob is opened, so a tree may come from far away and go into a
parser without a thread or a pipe between them. Memory is bounded by the largest directory. Sizes
are checked on the way, contents are not: that is what the reader's NAR hash is for.
"""

from __future__ import annotations

from collections.abc import Iterator

from eka_runtime.castore.node import DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.castore.services import (
    BlobService,
    DirectoryService,
    require_blob,
    require_directory,
)
from eka_runtime.errors import StoreCorrupt
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


class NarSource:
    """`read(n)` returns 1..n bytes of the NAR, b"" at its end.

    It raises StoreCorrupt when something below the node is missing or has another size, and what
    the services raise.
    """

    def __init__(self, node: Node, blobs: BlobService, directories: DirectoryService) -> None:
        self._pieces = _pieces(_parts(node, blobs, directories))
        self._piece = b""
        self._position = 0

    def read(self, size: int) -> bytes:
        if self._position == len(self._piece):
            self._piece, self._position = next(self._pieces, b""), 0
        data = self._piece[self._position : self._position + size]
        self._position += len(data)
        return data


def _pieces(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Joins small parts: most of a NAR is framing of a few bytes."""
    pending: list[bytes] = []
    size = 0
    for part in parts:
        pending.append(part)
        size += len(part)
        if size >= _PIECE:
            yield b"".join(pending)
            pending, size = [], 0
    if size:
        yield b"".join(pending)


def _parts(node: Node, blobs: BlobService, directories: DirectoryService) -> Iterator[bytes]:
    yield MAGIC
    levels: list[Iterator[tuple[bytes, Node]]] = [iter([(b"", node)])]
    while levels:
        nested = len(levels) > 1
        for name, child in levels[-1]:
            if nested:
                yield entry_open(name)
            if isinstance(child, DirectoryNode):
                yield DIRECTORY_OPEN
                levels.append(_entries(child, directories))
                break
            if isinstance(child, SymlinkNode):
                yield symlink(child.target)
            else:
                yield from _file(child, blobs)
            if nested:
                yield ENTRY_CLOSE
        else:
            levels.pop()
            if levels:
                yield NODE_CLOSE
            if len(levels) > 1:
                yield ENTRY_CLOSE


def _entries(node: DirectoryNode, directories: DirectoryService) -> Iterator[tuple[bytes, Node]]:
    directory = require_directory(directories, node.digest)
    if directory.size != node.size:
        raise StoreCorrupt(f"directory {node.digest} has size {directory.size}, not {node.size}")
    return iter(directory.entries)


def _file(node: FileNode, blobs: BlobService) -> Iterator[bytes]:
    yield file_header(node.executable, node.size)
    with require_blob(blobs, node.digest) as reader:
        left = node.size
        while left:
            data = reader.read(min(left, _PIECE))
            if not data:
                raise StoreCorrupt(f"blob {node.digest} has fewer than {node.size} bytes")
            left -= len(data)
            yield data
        # The end must be seen, too: services verify the digest there.
        if reader.read(1):
            raise StoreCorrupt(f"blob {node.digest} has more than {node.size} bytes")
    yield padding(node.size) + NODE_CLOSE
