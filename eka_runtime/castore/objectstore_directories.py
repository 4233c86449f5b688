"""Directory trees in an object store, each in one bundle, as snix lays them out.

    BASE/dirs/b3/HHHH/DIGEST        DIGEST of the root in hex, HHHH its first four digits

A bundle is a zstd stream of frames: length (u32, big endian), then one encoded directory. The root
comes first, then level by level what is below it, each digest once. A directory below a root is
not found by its own digest, and two trees share nothing: for that, put a store in front. Whatever
is read is verified, directory by directory; no more than the digests of a tree is held in memory.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from struct import Struct
from typing import IO, BinaryIO, NamedTuple, Self, cast

from zstandard import ZstdCompressor

from eka_runtime.castore import objects as object_stores
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory
from eka_runtime.castore.objects import Objects, damaged
from eka_runtime.castore.objectstore import LEVEL, object_key, open_frame
from eka_runtime.castore.tree_order import children, downward, upward
from eka_runtime.errors import CastoreError

MAX_DIRECTORY = 1 << 28
"""Bytes of one encoded directory, of some millions of entries. snix reads four times as much."""

_LENGTH = Struct(">I")
_PIECE = 1 << 18
_IN_MEMORY = 1 << 23


class ObjectDirectories:
    """A WritableDirectories over an object store; knows only the roots of trees."""

    def __init__(self, objects: Objects, base: str = "") -> None:
        self._objects = objects
        self._base = base

    @classmethod
    def from_url(cls, url: str, options: Mapping[str, str] | None = None) -> Self:
        """Takes `objectstore+…`; see `objects.from_url` for which, and for the errors."""
        return cls(object_stores.from_url(url, options))

    def get(self, digest: B3Digest) -> Directory | None:
        """Only the root of a tree that was put; None for a directory below one."""
        tree = self.get_tree(digest)
        return None if tree is None else next(tree)

    def get_tree(self, digest: B3Digest) -> Iterator[Directory] | None:
        key = object_key(self._base, "dirs", digest)
        source = self._objects.get(key)
        if source is None:
            return None
        tree = downward(digest, _read_bundle(source, key))
        # Begun here: of a generator that nobody begins to read, nobody would close the source.
        return chain([next(tree)], tree)

    def put_tree(self, directories: Iterable[Directory]) -> B3Digest:
        with ExitStack() as stack:
            tree = _Turned(stack.enter_context(_spool()))
            for directory in upward(directories):
                tree.add(directory)
            bundle = stack.enter_context(_spool())
            compressor = ZstdCompressor(level=LEVEL, write_content_size=False)
            with compressor.stream_writer(bundle, closefd=False) as writer:
                for data in tree.root_first():
                    writer.write(_LENGTH.pack(len(data)) + data)
            bundle.seek(0)
            self._objects.put(object_key(self._base, "dirs", tree.root), cast(BinaryIO, bundle))
            return tree.root


def _spool() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(_IN_MEMORY)


class _Entry(NamedTuple):
    """Where the encoding of a directory is, and what is below it."""

    offset: int
    length: int
    below: tuple[B3Digest, ...]


class _Turned:
    """The directories of a tree that came leaves first, root first; encodings are in a file."""

    root: B3Digest

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._entries: dict[B3Digest, _Entry] = {}

    def add(self, directory: Directory) -> None:
        data = directory.encode()
        if len(data) > MAX_DIRECTORY:
            raise CastoreError(
                f"directory {directory.digest} has {len(data)} bytes, more than {MAX_DIRECTORY}"
            )
        self.root = directory.digest
        below = dict.fromkeys(node.digest for node in children(directory))
        self._entries[self.root] = _Entry(self._file.tell(), len(data), tuple(below))
        self._file.write(data)

    def root_first(self) -> Iterator[bytes]:
        """The encodings, level by level."""
        queue, queued = deque([self.root]), {self.root}
        while queue:
            entry = self._entries[queue.popleft()]
            self._file.seek(entry.offset)
            yield self._file.read(entry.length)
            fresh = [digest for digest in entry.below if digest not in queued]
            queued.update(fresh)
            queue.extend(fresh)


def _read_bundle(source: BinaryIO, subject: str) -> Iterator[Directory]:
    with source:
        for data in _read_frames(open_frame(source, subject), subject):
            try:
                yield Directory.decode(data)
            except CastoreError as error:
                raise damaged(f"{subject}: {error}") from error


def _read_frames(reader: BinaryIO, subject: str) -> Iterator[bytes]:
    while header := _read(reader, _LENGTH.size):
        length = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else -1
        if length > MAX_DIRECTORY:
            raise damaged(f"{subject}: a directory of {length} bytes")
        data = _read(reader, length) if length > 0 else b""
        if len(data) != length:
            raise damaged(f"{subject} is cut off")
        yield data


def _read(reader: BinaryIO, size: int) -> bytes:
    """Less only at the end; holds no more than what there is, whatever the size says."""
    parts = []
    while size and (data := reader.read(min(size, _PIECE))):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)
