"""Blobs from far away, asked for before they are needed: many at a time, in bounded memory.

A tree has thousands of small files, and each costs a journey to the far service. So whoever is
going to read them in a known order says which (`expect`), and a window over that order is kept in
flight. Only small blobs are held in memory; large ones are streamed when they are opened, where a
journey more does not count. Out of scope: what is read in another order, which works, but slowly.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import BinaryIO, Self

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import FileNode
from eka_runtime.castore.services import BlobService
from eka_runtime.errors import StoreCorrupt

JOBS = 64
MEMORY = 64 << 20
"""Bytes of blobs in flight or waiting to be read."""
WHOLE = 4 << 20
"""Blobs up to this size are held in memory."""

# Every second package has empty files, and many services have no blob for them.
_EMPTY = {B3Digest.of(b""): b""}


class _Held:
    """A blob in the window, and how often it is still going to be read."""

    def __init__(self, data: Future[bytes | None], size: int, uses: int) -> None:
        self.data, self.size, self.uses = data, size, uses
        self.unread = True


class Prefetch:
    """A BlobService over near and far; `open_read` is for one thread, that which calls `expect`.

    `more` is asked for what comes next when all that is expected is on its way; an empty answer
    means "not known yet". A context manager: at its end nothing new is begun, and it does not wait
    for what is in flight.
    """

    def __init__(
        self,
        near: BlobService,
        far: BlobService,
        *,
        more: Callable[[], Iterable[FileNode]] = tuple,
        jobs: int = JOBS,
        memory: int = MEMORY,
    ) -> None:
        self._near = near
        self._far = far
        self._more = more
        self._memory = memory
        self._largest = min(WHOLE, memory // 2)
        self._unread_max = 4 * jobs
        self._threads = ThreadPoolExecutor(jobs, thread_name_prefix="prefetch")
        self._ahead: deque[FileNode] = deque()
        self._uses: dict[B3Digest, int] = {}  # of what is ahead
        self._held: dict[B3Digest, _Held] = {}
        self._size = 0  # of what is held
        self._unread = 0  # number of those held that were never read

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A service that hangs must not keep an interrupted user waiting.
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def held_bytes(self) -> int:
        """What is in flight or waiting to be read; never more than `memory`."""
        return self._size

    def expect(self, files: Iterable[FileNode]) -> None:
        """These are going to be read next after what is expected already, in this order."""
        self._append(files)
        self._fill()

    def _append(self, files: Iterable[FileNode]) -> None:
        for node in files:
            if 0 < node.size <= self._largest:
                self._ahead.append(node)
                self._uses[node.digest] = self._uses.get(node.digest, 0) + 1

    def has(self, digest: B3Digest) -> bool:
        return self._near.has(digest) or self._far.has(digest)

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        """Raises what far raised; StoreCorrupt when far gave more or less than was expected."""
        held = self._held.get(digest)
        data = self._take(digest, held) if held else _EMPTY.get(digest)
        self._fill()
        if data is not None:
            return io.BytesIO(data)
        found = self._near.open_read(digest)
        return self._far.open_read(digest) if found is None else found

    def _take(self, digest: B3Digest, held: _Held) -> bytes | None:
        data = held.data.result()
        held.uses -= 1
        self._unread -= held.unread
        held.unread = False
        # What is read again much later may stay, but must leave room for what comes first.
        if not held.uses or self._size > self._memory // 2:
            del self._held[digest]
            self._size -= held.size
        return data

    def _fill(self) -> None:
        """Begins as many fetches as there is room for."""
        while self._unread < self._unread_max:
            if not self._ahead:
                self._append(self._more())
            if not self._ahead or self._size + self._ahead[0].size > self._memory:
                return
            self._begin(self._ahead.popleft())

    def _begin(self, node: FileNode) -> None:
        # Nothing is left for the second mention of a blob: the first counted for all.
        uses = self._uses.pop(node.digest, 0)
        if held := self._held.get(node.digest):
            held.uses += uses
        elif uses:
            data = self._threads.submit(self._fetch, node)
            self._held[node.digest] = _Held(data, node.size, uses)
            self._size += node.size
            self._unread += 1

    def _fetch(self, node: FileNode) -> bytes | None:
        reader = self._far.open_read(node.digest)
        if reader is None:
            return None
        with reader:
            data = _read_all(reader, node.size + 1)
        if len(data) != node.size:
            raise StoreCorrupt(f"blob {node.digest} does not have {node.size} bytes")
        return data


def _read_all(reader: BinaryIO, limit: int) -> bytes:
    """Up to the end, which must be seen: services verify the digest there."""
    parts, size = [], 0
    while size < limit and (data := reader.read(limit - size)):
        parts.append(data)
        size += len(data)
    return b"".join(parts)
