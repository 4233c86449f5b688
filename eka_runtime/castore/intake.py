"""Moves the contents of files into a batch, with as many threads as pay.

Measured, not guessed: two threads that do short things hand the interpreter's lock to and fro at
more than the cost of those, so small files, which go into packs, are the calling thread's business
(`recorder.py`); where a tree has many, other processes have read and hashed them before
(`tree_walk.py`). Larger ones are written by a pool, or, where they are many, by another process
(`file_writer.py`). Files from LARGE on come in chunks that are read and hashed here, written by one
other thread, and hashed for the NAR by a third (`hashing.py`), all from one buffer; SHA-256 then
sets the pace. From DIRECT_MIN on writes bypass the page cache, which halves their cost and leaves
the cache to others. A file that is given away is linked (`adopt`): from LARGE on the kernel begins
to write it while it is hashed.

What is in flight is bounded: CHUNKS chunks, PENDING files below LARGE, _EARLY that are linked.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from blake3 import blake3

from eka_runtime.castore.batch import Batch, BlobWriter
from eka_runtime.castore.blobs import BlobRow
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.file_writer import FileWriter
from eka_runtime.castore.recorder import now
from eka_runtime.closing import Closing
from eka_runtime.errors import StoreError
from eka_runtime.linux.syscalls import begin_writing

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

LARGE = 1 << 20
DIRECT_MIN = 1 << 26
CHUNK = 1 << 20
CHUNKS = 24
PENDING = 32
# So many files of 64 KiB and more, and it is worth it to fork a process that writes them.
APART_FROM = 48
_EARLY = 8  # files that wait for the disk, each with a descriptor
_WORKERS_MAX = 4

T = TypeVar("T")

Fill = Callable[[memoryview], None]
Tee = Callable[[memoryview, Callable[[], None]], None]


class Intake(Closing):
    """Used from one thread. Errors of other threads are raised by a later call, or by `finish`.

    Leaving the context ends the threads; without `finish` before, some files may be missing.
    """

    def __init__(self, batch: Batch, jobs: int | None = None) -> None:
        # Here, since it takes long to import, and a daemon that is only asked has none of these.
        from concurrent.futures import ThreadPoolExecutor

        self._batch = batch
        workers = min(jobs or os.cpu_count() or 1, _WORKERS_MAX)
        self._pool = ThreadPoolExecutor(workers, "eka-blobs")
        # Apart from the pool, because chunks of a file must be written in order.
        self._disk = ThreadPoolExecutor(1, "eka-chunks")
        self._pending: deque[Future[None]] = deque()
        self._chunks: SimpleQueue[_Chunk] | None = None
        self._writers: set[BlobWriter] = set()
        # How many came, and who writes them when they have become many.
        self._files = 0
        self._apart: FileWriter | None = None
        self._early = threading.BoundedSemaphore(_EARLY)

    def close(self) -> None:
        if self._apart is not None:
            self._apart.close()
        self._pool.shutdown(cancel_futures=True)
        self._disk.shutdown(cancel_futures=True)
        for writer in self._writers:
            writer.close()

    def finish(self) -> None:
        """Waits until everything is written."""
        while self._pending:
            self._pending.popleft().result()
        if self._apart is not None:
            with self._batch.access_errors():
                self._apart.finish()

    def beside(self, job: Callable[..., T], *args: object) -> Future[T]:
        """Does something that takes long, and not the interpreter's lock."""
        try:
            return self._disk.submit(job, *args)
        except RuntimeError:
            return now(job, *args)  # no thread is to be had

    def take(
        self,
        digest: B3Digest,
        data: bytes | memoryview,
        executable: bool,
        adopted: int | None = None,
    ) -> None:
        """Contents that have a file of their own, from PACKED_MAX bytes on.

        `adopted`: a descriptor of the file, if it may become the blob itself.
        """
        if self._batch.knows(digest, len(data)):
            return
        if adopted is not None:
            self._batch.adopt(adopted, digest, len(data), executable)
            return
        self._files += 1
        if self._files == APART_FROM:
            self._apart = self._batch.file_writer()
        if self._apart is not None:
            with self._batch.access_errors():
                self._apart.put(self._batch.reserve(digest, len(data)), data, executable)
            return
        while len(self._pending) >= PENDING:
            self._pending.popleft().result()
        self._submit(self._pool, self._batch.put, digest, data, executable)

    def stream(self, size: int, executable: bool, fill: Fill, tees: Sequence[Tee] = ()) -> B3Digest:
        """One file of `size` bytes: `fill(view)` fills the whole view with the next of them.

        Each `tee(view, done)` gets every chunk too, and calls `done` when it needs it no more.
        """
        with _KnownBlob(self._batch, size) as known:
            return self._stream(size, executable, fill, tees, known)

    def adopt(
        self, fd: int, size: int, executable: bool, fill: Fill, tees: Sequence[Tee] = ()
    ) -> B3Digest:
        """As `stream`, for a file that nobody writes to any more: it becomes the blob itself."""
        self._write_early(fd)
        hasher = blake3()
        position = 0
        while position < size:
            chunk = self._free_chunk()
            view = chunk.view[: size - position]
            fill(view)
            hasher.update(view)
            self._hand_out(chunk, view, None, tees)
            position += len(view)
        digest = B3Digest(hasher.digest())
        if not self._batch.knows(digest, size):
            self._batch.adopt(fd, digest, size, executable)
        return digest

    def _write_early(self, fd: int) -> None:
        """The kernel begins to write what `Batch.sync` would otherwise have to wait for. Where the
        disk's queue is full this waits, while we go on; then the rest is left to `sync`."""
        if not self._early.acquire(blocking=False):
            return
        own = os.dup(fd)

        def end(done: object = None) -> None:
            os.close(own)
            self._early.release()

        try:
            advice = self._disk.submit(begin_writing, own)
        except BaseException:
            end()
            raise
        advice.add_done_callback(end)

    def _stream(
        self, size: int, executable: bool, fill: Fill, tees: Sequence[Tee], known: _KnownBlob
    ) -> B3Digest:
        hasher = blake3()
        writer: BlobWriter | None = None
        position = 0
        while position < size:
            chunk = self._free_chunk()
            view = chunk.view[: size - position]
            fill(view)
            hasher.update(view)
            if writer is None and not known.continues_with(view):
                writer = self._writer(size, executable, known, position)
            self._hand_out(chunk, view, writer, tees)
            position += len(view)
        digest = B3Digest(hasher.digest())
        if writer is None and not (digest == known.digest and self._batch.knows(digest, size)):
            # The known blob is damaged in a way that makes it equal to this one, or just marked.
            writer = self._writer(size, executable, known, size)
        if writer is not None:
            self._submit(self._disk, self._end, writer, digest, self._batch.knows(digest, size))
        return digest

    def _hand_out(
        self, chunk: _Chunk, view: memoryview, writer: BlobWriter | None, tees: Sequence[Tee]
    ) -> None:
        users = chunk.users = (writer is not None) + len(tees)
        if writer is not None:
            self._submit(self._disk, self._write, writer, view, chunk.release)
        for tee in tees:
            tee(view, chunk.release)
        if not users:
            chunk.free()

    def _writer(self, size: int, executable: bool, known: _KnownBlob, position: int) -> BlobWriter:
        writer = self._batch.writer(executable, direct=size >= DIRECT_MIN)
        self._writers.add(writer)
        if position:
            writer.copy_from(known.fd, position)
        return writer

    def _write(self, writer: BlobWriter, view: memoryview, release: Callable[[], None]) -> None:
        try:
            writer.write(view)
        finally:
            release()

    def _end(self, writer: BlobWriter, digest: B3Digest, known: bool) -> None:
        if not known:
            writer.finish(digest)
        self._writers.discard(writer)
        writer.close()

    def _submit(self, pool: ThreadPoolExecutor, job: Callable[..., None], *args: object) -> None:
        self._pending.append(pool.submit(job, *args))
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def _free_chunk(self) -> _Chunk:
        if self._chunks is None:
            # Anonymous memory is aligned to pages, which direct I/O needs.
            arena = memoryview(mmap.mmap(-1, CHUNK * CHUNKS))
            self._chunks = SimpleQueue()
            for start in range(0, CHUNK * CHUNKS, CHUNK):
                self._chunks.put(_Chunk(arena[start : start + CHUNK], self._chunks))
        return self._chunks.get()


class _Chunk:
    """A buffer that goes back to the free ones when its last user has released it."""

    __slots__ = ("_free", "_lock", "users", "view")

    def __init__(self, view: memoryview, free: SimpleQueue[_Chunk]) -> None:
        self.view = view
        self.users = 0
        self._free = free
        self._lock = threading.Lock()

    def release(self) -> None:
        with self._lock:
            self.users -= 1
            last = self.users == 0
        if last:
            self.free()

    def free(self) -> None:
        self._free.put(self)


class _KnownBlob(Closing):
    """A blob of the store that has the same size, for as long as its contents are the same.

    Large files are seldom of equal size by chance. So when one comes that the store has already,
    nothing of it is written, though its digest is known only at the end.
    """

    def __init__(self, batch: Batch, size: int) -> None:
        self._blobs = batch.blobs
        self._candidates: list[BlobRow] | None = batch.blobs.of_size(size)
        self.fd = -1
        self.digest: B3Digest | None = None

    def continues_with(self, view: memoryview) -> bool:
        if self._candidates is None:
            return self._reads(view)
        candidates, self._candidates = self._candidates, None
        return any(self._open(row) and self._reads(view) for row in candidates)

    def _open(self, row: BlobRow) -> bool:
        self.close()
        with suppress(StoreError), self._blobs.open_row(row) as reader:
            self.fd, self.digest = os.dup(reader.fileno()), row.digest
        return self.fd >= 0

    def _reads(self, view: memoryview) -> bool:
        while view:
            data = os.read(self.fd, len(view))
            # Comparing memoryviews goes byte by byte.
            if not data or bytes(view[: len(data)]) != data:
                return False
            view = view[len(data) :]
        return True

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
