"""Blobs in an object store, in chunks, as snix lays them out.

    BASE/blobs/b3/HHHH/DIGEST       the chunks of a blob: a StatBlobResponse; empty if there is one
    BASE/chunks/b3/HHHH/DIGEST      a chunk: one zstd frame, of unknown size, without a checksum

DIGEST is in hex, and HHHH its first four digits. An only chunk has the digest of its blob. Chunks
come before the list of them, so a blob that is listed is whole; a writer that was interrupted
leaves chunks behind, which the next one finds. Nothing that is read is taken on trust: each chunk
is verified before any of it is given out, and the last one not before the whole blob was too.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, chain
from queue import LifoQueue
from typing import Any, BinaryIO, Self, cast

from blake3 import blake3
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError

from eka_runtime.castore import objects as object_stores
from eka_runtime.castore.chunking import AVERAGE, MAX_CHUNK, check_average, chunks
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.messages import Chunk, decode_chunks, encode_chunks
from eka_runtime.castore.objects import Objects, damaged, read_all, read_object
from eka_runtime.castore.services import Read
from eka_runtime.errors import CastoreError

LEVEL = 3
MAX_WINDOW = 1 << 23
"""Bytes that a decoder may have to keep: what RFC 8878 asks every decoder to support."""

# The list of the chunks of half a terabyte, if they have the default size.
_MAX_INDEX = 1 << 26
_EMPTY = B3Digest.of(b"")
# More than zstd adds to contents that cannot be compressed, beside 1/128 of them.
_FRAMING = 1024

# Bytes on their way in either direction, and requests at a time: object stores answer slowly, but
# many at once. A process that copies a blob of any size stays below 100 MiB with these.
_UNDER_WAY = 1 << 23
_READ_AHEAD = 1 << 22
_REQUESTS = 16


class ObjectBlobs:
    """A WritableBlobs over an object store.

    `average` is the size of chunks it aims at; UsageError for one that snix would not take.
    """

    def __init__(self, objects: Objects, base: str = "", *, average: int = AVERAGE) -> None:
        check_average(average)
        self._objects = objects
        self._base = base
        self._average = average
        # Each holds some megabytes: as many as can work at a time, whatever the number of threads.
        self._compressors: LifoQueue[ZstdCompressor] = LifoQueue()
        for _ in range(min(os.cpu_count() or 1, 8)):
            self._compressors.put(ZstdCompressor(level=LEVEL, write_content_size=False))

    @classmethod
    def from_url(
        cls, url: str, options: Mapping[str, str] | None = None, *, average: int = AVERAGE
    ) -> Self:
        """Takes `objectstore+…`; see `objects.from_url` for which, and for the errors."""
        return cls(object_stores.from_url(url, options), average=average)

    def has(self, digest: B3Digest) -> bool:
        return any(
            self._objects.head(self._key(kind, digest)) is not None for kind in ("blobs", "chunks")
        )

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        """Seekable, unbuffered; raises StoreCorrupt, also in `read`, rather than be wrong."""
        if digest == _EMPTY:
            return io.BytesIO()
        # In snix's order: most blobs are one chunk, and one request is enough for them.
        data = self._only_chunk(digest)
        if data is not None:
            return io.BytesIO(data)
        listed = self.chunks(digest)
        if listed is None:
            return None
        if not listed:
            raise damaged(f"blob {digest}: its only chunk is missing")
        return cast(BinaryIO, _ChunkedReader(digest, listed, self._required_chunk))

    def chunks(self, digest: B3Digest) -> list[Chunk] | None:
        """As recorded, not verified; none for a blob of one chunk. None: no such blob."""
        data = read_object(self._objects, self._key("blobs", digest), _MAX_INDEX)
        if data is not None:
            return _decode_index(digest, data)
        return None if self._objects.head(self._key("chunks", digest)) is None else []

    def put(self, read: Read) -> B3Digest:
        pieces = chunks(read, self._average)
        first = next(pieces, b"")
        second = next(pieces, b"")
        if second:
            digest, index = self._put_chunks(first, second, pieces)
        else:
            digest, index = self._put_chunk(first).digest if first else _EMPTY, b""
        if len(index) > _MAX_INDEX:
            raise CastoreError(f"blob {digest} has too many chunks of {self._average} bytes")
        self._objects.put(self._key("blobs", digest), index)
        return digest

    def _put_chunks(
        self, first: bytes, second: bytes, others: Iterator[bytes]
    ) -> tuple[B3Digest, bytes]:
        """Digest and index of a blob, of which all the chunks are there now."""
        hasher, index = blake3(), bytearray()
        under_way: deque[Future[Chunk]] = deque()
        limit = max(2, min(_REQUESTS, _UNDER_WAY // (2 * self._average)))
        pool = ThreadPoolExecutor(limit, "eka-upload")
        try:
            for piece in chain((first, second), others):
                if len(under_way) == limit:
                    index += encode_chunks([under_way.popleft().result()])
                under_way.append(pool.submit(self._put_chunk, piece))
                hasher.update(piece)
            for one in under_way:
                index += encode_chunks([one.result()])
        finally:
            pool.shutdown(cancel_futures=True)
        return B3Digest(hasher.digest()), bytes(index)

    def _put_chunk(self, data: bytes) -> Chunk:
        digest = B3Digest.of(data)
        key = self._key("chunks", digest)
        if self._objects.head(key) is None:
            self._objects.put(key, self._compress(data), replace=True)
        return Chunk(digest, len(data))

    def _compress(self, data: bytes) -> bytes:
        compressor = self._compressors.get()
        try:
            # As a stream, as snix does: in one call it would fit the frame to the size.
            stream = compressor.compressobj()
            return stream.compress(data) + stream.flush()
        finally:
            self._compressors.put(compressor)

    def _required_chunk(self, chunk: Chunk) -> bytes:
        key = self._key("chunks", chunk.digest)
        frame = read_object(self._objects, key, chunk.size + (chunk.size >> 7) + _FRAMING)
        if frame is None:
            raise damaged(f"{key} is missing")
        try:
            # Unlike a stream this needs no window beside the output.
            data = ZstdDecompressor().decompress(frame, max_output_size=chunk.size)
        except ZstdError as error:
            raise damaged(f"{key}: {error}") from error
        if len(data) != chunk.size:
            raise damaged(f"{key} has {len(data)} bytes, not {chunk.size}")
        return _verified(data, chunk.digest, key)

    def _only_chunk(self, digest: B3Digest) -> bytes | None:
        key = self._key("chunks", digest)
        source = self._objects.get(key)
        if source is None:
            return None
        with source:
            return _verified(read_all(open_frame(source, key), MAX_CHUNK, key), digest, key)

    def _key(self, kind: str, digest: B3Digest) -> str:
        return object_key(self._base, kind, digest)


def object_key(base: str, kind: str, digest: B3Digest) -> str:
    digits = digest.hex()
    return f"{base}/{kind}/b3/{digits[:4]}/{digits}".removeprefix("/")


def open_frame(source: BinaryIO, subject: str) -> BinaryIO:
    """The contents of a zstd frame; reading raises StoreCorrupt. Does not close the source."""
    decompressor = ZstdDecompressor(max_window_size=MAX_WINDOW)
    return cast(BinaryIO, _Frame(decompressor.stream_reader(source, closefd=False), subject))


def _verified(data: bytes, digest: B3Digest, subject: str) -> bytes:
    if B3Digest.of(data) != digest:
        raise damaged(f"{subject} does not contain what its name says")
    return data


class _Frame(io.RawIOBase):
    """A frame that is cut off just ends: whoever reads it knows a digest, or a length."""

    def __init__(self, reader: Any, subject: str) -> None:
        self._reader = reader
        self._subject = subject

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._reader.readinto(buffer))
        except ZstdError as error:
            raise damaged(f"{self._subject}: {error}") from error


class _ChunkedReader(io.RawIOBase):
    """A blob out of its chunks; while it is read in order, the next ones are fetched beforehand.

    Holds _READ_AHEAD bytes and one chunk. Whoever reads all of it without skipping a chunk gets
    the last one only after the whole was verified.
    """

    def __init__(
        self, digest: B3Digest, listed: list[Chunk], fetch: Callable[[Chunk], bytes]
    ) -> None:
        self._digest = digest
        self._chunks = listed
        self._fetch = fetch
        self._ends = list(accumulate(chunk.size for chunk in listed))
        self._position = 0
        self._current = -1
        self._data = b""
        self._hasher = blake3()
        self._hashed = 0
        self._ahead: deque[tuple[int, Future[bytes]]] = deque()
        self._pool = ThreadPoolExecutor(_REQUESTS, "eka-read")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1]}[whence]
        if start + offset < 0:
            raise ValueError(f"negative position: {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self.closed:
            raise ValueError("read of a closed blob")
        view = memoryview(buffer).cast("B")
        if not view or self._position >= self._ends[-1]:
            return 0
        index = bisect_right(self._ends, self._position)
        if index != self._current:
            self._load(index)
        offset = self._position - (self._ends[index] - self._chunks[index].size)
        piece = memoryview(self._data)[offset : offset + len(view)]
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(cancel_futures=True)
            self._ahead.clear()
        super().close()

    def _load(self, index: int) -> None:
        data = self._take(index)
        if index == self._hashed:
            self._hasher.update(data)
            self._hashed += 1
        # Whoever goes on after the error gets it again.
        if self._hashed == len(self._chunks) and self._hasher.digest() != self._digest:
            raise damaged(f"the chunks listed for blob {self._digest} are not its own")
        self._current, self._data = index, data

    def _take(self, index: int) -> bytes:
        """A chunk; asks for those behind it if it was the next one itself."""
        while self._ahead and self._ahead[0][0] != index:
            self._ahead.popleft()[1].cancel()
        if not self._ahead:
            if index != self._current + 1:
                return self._fetch(self._chunks[index])
            self._ahead.append((index, self._pool.submit(self._fetch, self._chunks[index])))
        following = self._ahead[-1][0] + 1
        start = self._ends[index]
        while following < len(self._chunks) and self._ends[following] - start <= _READ_AHEAD:
            chunk = self._chunks[following]
            self._ahead.append((following, self._pool.submit(self._fetch, chunk)))
            following += 1
        return self._ahead.popleft()[1].result()


def _decode_index(blob: B3Digest, data: bytes) -> list[Chunk]:
    try:
        listed = decode_chunks(data)
    except CastoreError as error:
        raise damaged(f"blob {blob}: {error}") from error
    if any(not 1 <= chunk.size <= MAX_CHUNK for chunk in listed):
        raise damaged(f"blob {blob}: a chunk does not have 1 to {MAX_CHUNK} bytes")
    return list(listed)
