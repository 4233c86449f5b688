"""SHA-256 of a long stream in a thread of its own, so that it costs no time beside I/O.

hashlib releases the interpreter's lock for inputs over 2 KiB, and SHA-256 is what bounds the speed
of every import: it must run all the time, in large pieces, and wait for nothing. Streams shorter
than one piece, which are most, are hashed in the calling thread.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from queue import Queue

from eka_runtime.closing import Closing

# What is queued but not hashed is bounded by QUEUED pieces. Callers keep pieces below 1 MiB.
QUEUED = 16
_INLINE = 1 << 18

_Data = bytes | bytearray | memoryview
_Item = tuple[_Data, Callable[[], None] | None]


class StreamHash(Closing):
    """`update` in order from one thread, then `digest`; leaving the context ends the thread.

    `also` gets everything that is hashed, in order, in the thread that calls `update`: this one's
    is for what sets the pace.
    """

    def __init__(self, also: Callable[[_Data], object] | None = None) -> None:
        self._also = also
        self._hash = hashlib.sha256()
        self._queue: Queue[_Item | None] = Queue(QUEUED)
        self._thread: threading.Thread | None = None
        self.size = 0

    def update(self, data: _Data, done: Callable[[], None] | None = None) -> None:
        """`data` must not change before `done` was called, in whatever thread."""
        self.size += len(data)
        if self._also is not None:
            self._also(data)
        if self._thread is None:
            if self.size < _INLINE:
                self._hash.update(data)
                if done:
                    done()
                return
            self._thread = threading.Thread(target=self._run, name="eka-sha256")
            self._thread.start()
        self._queue.put((data, done))

    def digest(self) -> bytes:
        """Of everything so far; waits for it. Nothing may be added afterwards."""
        self.close()
        return self._hash.digest()

    def _run(self) -> None:
        while item := self._queue.get():
            data, done = item
            self._hash.update(data)
            if done:
                done()

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
