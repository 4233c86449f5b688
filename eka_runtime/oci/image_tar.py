"""Store paths as tar streams whose every byte follows from their contents.

What a view shows is what is in the archive: files 0444 or 0555, directories 0555, modification time
1; the owner is 0:0. Headers are ustar (POSIX.1-1988), preceded by pax records (POSIX.1-2001) where
a name or a size does not fit. Memory is bounded by the largest directory. Contents are compared
with their digests on the way, so a damaged store cannot leave a damaged image behind unnoticed.
Out of scope: compression, archives of layers (`image_write.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import BinaryIO

from blake3 import blake3

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.castore.render import directory_entries, with_contents
from eka_runtime.castore.services import BlobService, DirectoryService, require_blob
from eka_runtime.errors import StoreCorrupt

Write = Callable[[bytes], object]

BLOCK = 512
MTIME = 1

_CHUNK = 1 << 19
_RECORD = 20 * BLOCK
_MAX_NAME, _MAX_PREFIX = 100, 155
_MAX_OCTAL = 8**11
_FILE, _SYMLINK, _DIRECTORY, _PAX = b"0", b"2", b"5", b"x"
_DAMAGED = "run `eka store verify --deep` to find what is damaged"


class TarWriter:
    """Members in the order given; names are relative bytes. `end` makes the archive complete."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self.size = 0

    def directory(self, name: bytes, mode: int = 0o755) -> None:
        self._header(name + b"/", mode, 0, _DIRECTORY)

    def symlink(self, name: bytes, target: bytes) -> None:
        self._header(name, 0o777, 0, _SYMLINK, target)

    def file(self, name: bytes, mode: int, data: bytes) -> None:
        self._header(name, mode, len(data), _FILE)
        self._put(data)
        self._pad(len(data))

    def begin_file(self, name: bytes, mode: int, size: int) -> None:
        """`size` bytes by `put`, then `end_file(size)`, have to follow."""
        self._header(name, mode, size, _FILE)

    def put(self, data: bytes) -> None:
        self._put(data)

    def end_file(self, size: int) -> None:
        self._pad(size)

    def end(self) -> None:
        """Two empty blocks, filled up to a record of 10 KiB as tar does it."""
        self._put(bytes(2 * BLOCK))
        self._put(bytes(-self.size % _RECORD))

    def _put(self, data: bytes) -> None:
        self.size += len(data)
        self._write(data)

    def _pad(self, size: int) -> None:
        if rest := -size % BLOCK:
            self._put(bytes(rest))

    def _header(self, name: bytes, mode: int, size: int, kind: bytes, target: bytes = b"") -> None:
        head, tail = _split(name)
        records = b""
        if not tail:
            records += _record(b"path", name)
            head, tail = b"", name[:_MAX_NAME]
        if len(target) > _MAX_NAME:
            records += _record(b"linkpath", target)
            target = target[:_MAX_NAME]
        stated = size
        if size >= _MAX_OCTAL:
            records += _record(b"size", b"%d" % size)
            stated = 0
        if records:
            self._put(_block(b"", b"././@PaxHeader", 0o644, len(records), _PAX, b""))
            self._put(records)
            self._pad(len(records))
        self._put(_block(head, tail, mode, stated, kind, target))


def member_size(name: bytes, size: int) -> int:
    """What a regular file takes in an archive, header and padding included."""
    counted = TarWriter(lambda data: None)
    counted.begin_file(name, 0o644, size)
    return counted.size + size + -size % BLOCK


def header_of(name: bytes, mode: int, size: int) -> bytes:
    """The header blocks of a regular file."""
    parts: list[bytes] = []
    TarWriter(parts.append).begin_file(name, mode, size)
    return b"".join(parts)


def write_store_paths(
    tar: TarWriter,
    nodes: Iterable[tuple[bytes, Node]],
    blobs: BlobService,
    directories: DirectoryService,
) -> None:
    """Trees at the given names, in the order given.

    Raises StoreCorrupt when something is missing, or is not what its digest says.
    """
    for name, node in nodes:
        levels = [
            (name.rpartition(b"/")[0], with_contents([(name.rpartition(b"/")[2], node)], blobs))
        ]
        while levels:
            above, rest = levels[-1]
            for own, child, data in rest:
                place = above + b"/" + own if above else own
                if isinstance(child, DirectoryNode):
                    tar.directory(place, 0o555)
                    entries = directory_entries(child, directories)
                    levels.append((place, with_contents(entries, blobs)))
                    break
                _write_leaf(tar, place, child, data, blobs)
            else:
                levels.pop()


def _write_leaf(
    tar: TarWriter,
    place: bytes,
    node: FileNode | SymlinkNode,
    data: bytes | None,
    blobs: BlobService,
) -> None:
    if isinstance(node, SymlinkNode):
        tar.symlink(place, node.target)
        return
    mode = 0o555 if node.executable else 0o444
    if data is None:
        with require_blob(blobs, node.digest) as reader:
            _stream(tar, place, mode, node, reader)
        return
    if B3Digest.of(data) != node.digest:
        raise _damaged(node)
    tar.file(place, mode, data)


def _stream(tar: TarWriter, place: bytes, mode: int, node: FileNode, reader: BinaryIO) -> None:
    hasher, left = blake3(), node.size
    tar.begin_file(place, mode, node.size)
    while left:
        data = reader.read(min(left, _CHUNK))
        if not data:
            raise _damaged(node)
        hasher.update(data)
        tar.put(data)
        left -= len(data)
    if reader.read(1) or hasher.digest() != node.digest:
        raise _damaged(node)
    tar.end_file(node.size)


def _damaged(node: FileNode) -> StoreCorrupt:
    return StoreCorrupt(f"blob {node.digest} is not what its digest says", hint=_DAMAGED)


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Prefix and name as ustar has them; no name when they do not fit, or are no ASCII."""
    # Readers disagree about the encoding of other names unless a pax record says UTF-8.
    if not name.isascii():
        return b"", b""
    if len(name) <= _MAX_NAME:
        return b"", name
    slash = name.rfind(b"/", 0, min(_MAX_PREFIX + 1, len(name) - 1))
    if slash <= 0 or len(name) - slash - 1 > _MAX_NAME:
        return b"", b""
    return name[:slash], name[slash + 1 :]


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where LENGTH counts its own digits."""
    length = len(key) + len(value) + 3
    total = length + len(b"%d" % length)
    total = length + len(b"%d" % total)
    return b"%d %s=%s\n" % (total, key, value)


def _block(prefix: bytes, name: bytes, mode: int, size: int, kind: bytes, target: bytes) -> bytes:
    text = b"%s%07o\x000000000\x000000000\x00%011o\x00%011o\x00        %s%s%s" % (
        name.ljust(100, b"\0"),
        mode,
        size,
        MTIME,
        kind,
        target.ljust(100, b"\0"),
        b"ustar\x0000".ljust(72, b"\0") + b"0000000\x000000000\x00",
    )
    block = (text + prefix).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
