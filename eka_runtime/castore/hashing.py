"""SHA-256 of a long stream beside everything else, so that it costs no time.

SHA-256 is what bounds the speed of every import: it must run all the time, in large pieces, and
wait for nothing. Streams shorter than one piece, which are most, are hashed in the calling thread;
longer ones in a thread of their own, where large pieces come uncopied, and hashlib releases the
interpreter's lock. When many small pieces have come, which keep that lock busy, a forked process
goes on: handing the lock to and fro costs twice as much as copying pieces into shared memory does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from queue import Queue
from struct import Struct
from typing import TYPE_CHECKING

from eka_runtime.castore.workers import end, ended, forked, may_fork
from eka_runtime.closing import Closing

if TYPE_CHECKING:
    import hashlib

# What is queued but not hashed is bounded by QUEUED pieces. Callers keep pieces below 1 MiB.
QUEUED = 16
_INLINE = 1 << 18
# Forking costs some milliseconds, as hashing this does.
APART = 1 << 23

# Shared with the process: it hashes some slots while others are filled.
_SLOT, _SLOTS = 1 << 18, 8
_SIZE = Struct("=I")
_DIGEST_SIZE = 32

_Data = bytes | bytearray | memoryview
_Item = tuple[_Data, Callable[[], None] | None]


class StreamHash(Closing):
    """`update` in order from one thread, then `digest`; leaving the context ends the thread.

    `also` gets everything that is hashed, in order, in the thread that calls `update`: this one's
    is for what sets the pace.
    """

    def __init__(self, also: Callable[[_Data], object] | None = None) -> None:
        self._also = also
        # Here, since OpenSSL takes longer to be loaded than many a command takes.
        import hashlib

        self._hash = hashlib.sha256()
        self._queue: Queue[_Item | None] = Queue(QUEUED)
        self._thread: threading.Thread | None = None
        self._process: _Process | None = None
        self._decided = False
        self.size = 0

    def update(self, data: _Data, done: Callable[[], None] | None = None) -> None:
        """`data` must not change before `done` was called, in whatever thread."""
        self.size += len(data)
        if self._also is not None:
            self._also(data)
        if self._process is not None:
            self._process.update(data)
            if done:
                done()
        elif self._thread is None and self.size < _INLINE:
            self._hash.update(data)
            if done:
                done()
        else:
            self._beside(data, done)

    def _beside(self, data: _Data, done: Callable[[], None] | None) -> None:
        if self._thread is None and not self._started():
            self._hash.update(data)
            if done:
                done()
            return
        self._queue.put((data, done))
        if self.size >= APART and not self._decided:
            self._decided = True
            # What says when it is done with comes in large pieces.
            if done is None and may_fork():
                self._join()
                # Where no process is to be had, another thread goes on.
                with suppress(OSError):
                    self._process = _Process(self._hash)

    def _started(self) -> bool:
        """False where no thread is to be had: RuntimeError of `Thread.start`."""
        thread = threading.Thread(target=self._run, name="eka-sha256")
        with suppress(RuntimeError):
            thread.start()
            self._thread = thread
        return self._thread is not None

    def digest(self) -> bytes:
        """Of everything so far; waits for it. Nothing may be added afterwards."""
        if self._process is not None:
            return self._process.digest()
        self._join()
        return self._hash.digest()

    def _run(self) -> None:
        while item := self._queue.get():
            data, done = item
            self._hash.update(data)
            if done:
                done()

    def _join(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self._join()
        if self._process is not None:
            self._process.close()


class _Process(Closing):
    """Goes on with a hash in another process. Raises HostError when that is killed."""

    def __init__(self, begun: hashlib._Hash) -> None:
        import mmap

        self._arena = memoryview(mmap.mmap(-1, _SLOT * _SLOTS))
        self._filled = self._sent = self._done = 0
        self._answer = b""
        with ExitStack() as stack, ExitStack() as inner:
            reading, self._writing = _pipe(inner, stack)
            self._reading, writing = _pipe(stack, inner)
            life = partial(_hash_slots, begun, self._arena, reading, writing)
            pid = forked(life, (reading, writing))
            stack.callback(end, pid)
            self._stack = stack.pop_all()

    def update(self, data: _Data) -> None:
        view = memoryview(data)
        while view:
            start = self._sent % _SLOTS * _SLOT + self._filled
            count = min(len(view), _SLOT - self._filled)
            self._arena[start : start + count] = view[:count]
            self._filled += count
            view = view[count:]
            if self._filled == _SLOT:
                self._send()
                while self._sent - self._done == _SLOTS:
                    self._hear()

    def digest(self) -> bytes:
        if self._filled:
            self._send()
        self._tell(0)
        while self._done < self._sent or len(self._answer) < _DIGEST_SIZE:
            self._hear()
        return self._answer

    def close(self) -> None:
        self._stack.close()

    def _send(self) -> None:
        self._tell(self._filled)
        self._sent += 1
        self._filled = 0

    def _tell(self, size: int) -> None:
        try:
            os.write(self._writing, _SIZE.pack(size))
        except BrokenPipeError:
            raise ended() from None

    def _hear(self) -> None:
        """One byte for each slot, and then the digest."""
        heard = os.read(self._reading, _SLOTS + _DIGEST_SIZE)
        if not heard:
            raise ended()
        slots = min(len(heard), self._sent - self._done)
        self._done += slots
        self._answer += heard[slots:]


def _pipe(readers: ExitStack, writers: ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    readers.callback(os.close, reading)
    writers.callback(os.close, writing)
    return reading, writing


def _hash_slots(hashing: hashlib._Hash, arena: memoryview, reading: int, writing: int) -> None:
    """What the other process does; a size of 0 is the end."""
    number = 0
    while size := _size_of_slot(reading):
        start = number % _SLOTS * _SLOT
        hashing.update(arena[start : start + size])
        os.write(writing, b".")
        number += 1
    os.write(writing, hashing.digest())


def _size_of_slot(reading: int) -> int:
    said = os.read(reading, _SIZE.size)
    # Nothing: the parent has died, and nobody will read the digest.
    return int(_SIZE.unpack(said)[0]) if said else 0
