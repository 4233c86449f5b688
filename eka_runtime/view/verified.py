"""Blobs of any service as something that can be read anywhere, verified before the first byte.

Small blobs are kept in memory, a few at a time. Large ones are read from the store's own file, or
from an unlinked temporary one where the service has only streams; of these, too, a few stay open.
So memory and open files are bounded, however much is read. Constraint: whoever holds a `Verified`
calls it from one thread at a time; only `fetch` may run beside.
"""

from __future__ import annotations

import errno
import io
import os
import threading
from collections import OrderedDict
from typing import BinaryIO

from blake3 import blake3

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.services import BlobService, require_blob
from eka_runtime.errors import StoreCorrupt

SMALL = 1 << 16
"""Blobs up to this size are kept as bytes."""

_Key = tuple[B3Digest, int]  # with the size, since who asks for another must not get this one
_KEPT_BYTES = 1 << 23
_KEPT_FILES = 64
_BUFFER = 1 << 20


class Verified:
    """What was fetched lately; a context manager."""

    def __init__(self, blobs: BlobService) -> None:
        self._blobs = blobs
        self._small: OrderedDict[_Key, bytes] = OrderedDict()
        self._small_size = 0
        self._files: OrderedDict[_Key, int] = OrderedDict()
        self._lock = threading.Lock()
        self._buffer = memoryview(bytearray(1 << 20))

    def read(self, key: _Key, offset: int, count: int) -> bytes | memoryview | None:
        """None when it has to be fetched first; a memoryview is good until the next call.

        `key` is digest and size of the blob, of which that range must be a part.

        OSError (EIO) when a file became shorter after it was verified.
        """
        with self._lock:
            data = self._small.get(key)
            if data is not None:
                return data[offset : offset + count]
            fd = self._files.get(key)
            if fd is None:
                return None
            self._files.move_to_end(key)
            wanted = self._buffer[:count]
            done = 0
            while done < len(wanted):
                got = os.preadv(fd, [wanted[done:]], offset + done)
                if got == 0:
                    raise OSError(errno.EIO, f"blob {key[0]} became shorter")
                done += got
            return wanted

    def fetch(self, key: _Key, *, known: bool = False) -> None:
        """Afterwards `read` has it, unless 64 others were fetched since.

        A local file that is `known` to be right is not verified again. Raises StoreCorrupt when it
        is missing, or has another digest or size; and what the service raises.
        """
        digest, size = key
        with require_blob(self._blobs, digest) as reader:
            if size <= SMALL:
                self._keep_small(key, _read_small(reader, digest, size))
                return
            fd = _descriptor(reader)
            if fd is None:
                fd = _spooled(reader, digest, size)
            elif not known:
                _check_file(fd, digest, size)
        self._keep_file(key, fd)

    def close(self) -> None:
        with self._lock:
            for fd in self._files.values():
                os.close(fd)
            self._files.clear()
            self._small.clear()
            self._small_size = 0

    def _keep_small(self, key: _Key, data: bytes) -> None:
        with self._lock:
            if key not in self._small:
                self._small[key] = data
                self._small_size += len(data)
            while self._small_size > _KEPT_BYTES:
                self._small_size -= len(self._small.popitem(last=False)[1])

    def _keep_file(self, key: _Key, fd: int) -> None:
        with self._lock:
            if self._files.setdefault(key, fd) != fd:
                os.close(fd)
            if len(self._files) > _KEPT_FILES:
                os.close(self._files.popitem(last=False)[1])


def _read_small(reader: BinaryIO, digest: B3Digest, size: int) -> bytes:
    pieces, count = [], 0
    # One byte more than there should be, so that a longer one is noticed.
    while count <= size and (data := reader.read(size + 1 - count)):
        pieces.append(data)
        count += len(data)
    whole = b"".join(pieces)
    _compare(digest, size, B3Digest.of(whole), count)
    return whole


def _descriptor(reader: BinaryIO) -> int | None:
    """One of our own for a reader that is a file."""
    try:
        return os.dup(reader.fileno())
    except (AttributeError, io.UnsupportedOperation):
        return None


def _check_file(fd: int, digest: B3Digest, size: int) -> None:
    try:
        with open(fd, "rb", buffering=0, closefd=False) as reader:
            _compare(digest, size, *_digest_of(reader, size, None))
    except BaseException:
        os.close(fd)
        raise


def _spooled(reader: BinaryIO, digest: B3Digest, size: int) -> int:
    import tempfile  # 3 ms that a store on this disk never needs

    with tempfile.TemporaryFile(buffering=0) as copy:
        _compare(digest, size, *_digest_of(reader, size, copy.fileno()))
        return os.dup(copy.fileno())


def _digest_of(reader: BinaryIO, size: int, copy: int | None) -> tuple[B3Digest, int]:
    """Of at most one buffer more than `size`, so that nothing endless fills the disk."""
    hasher, count = blake3(), 0
    buffer = memoryview(bytearray(min(_BUFFER, size + 1)))
    while count <= size and (got := reader.readinto(buffer)):  # type: ignore[attr-defined]
        hasher.update(buffer[:got])
        count += got
        if copy is not None:
            _write_all(copy, buffer[:got])
    return B3Digest(hasher.digest()), count


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _compare(digest: B3Digest, size: int, actual: B3Digest, count: int) -> None:
    if (actual, count) != (digest, size):
        raise StoreCorrupt(
            f"blob {digest} of {size} bytes has {count} bytes with digest {actual}",
            hint="run `eka store verify --repair`",
        )
