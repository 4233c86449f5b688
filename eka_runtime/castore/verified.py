"""A blob that comes in pieces from elsewhere; nobody has all of it before it was verified.

Constraint: reads forward only. Out of scope: where the pieces come from, and sizes of blobs, which
those who read them know.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from blake3 import blake3

from eka_runtime.castore.digest import B3Digest
from eka_runtime.errors import StoreCorrupt


class VerifiedReader(io.RawIOBase):
    """One piece is held back until the digest of all was found right.

    `receive` returns the next piece, b"" at the end; `closed_with` ends what it takes from. Reading
    raises what `receive` does, and StoreCorrupt, which names the `place`, for another digest.
    """

    def __init__(
        self,
        digest: B3Digest,
        place: str,
        receive: Callable[[], bytes],
        closed_with: Callable[[], object],
    ) -> None:
        self._digest = digest
        self._place = place
        self._receive = receive
        self._closed_with = closed_with
        self._hasher = blake3()
        self._ready = memoryview(b"")
        self._held: bytes | None = None
        self._begun = False

    def start(self) -> None:
        """Takes the first piece, so that what is wrong from the beginning is known now."""
        if not self._begun:
            self._begun, self._held = True, self._next()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._take(len(target))
        target[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """As a file without a buffer: perhaps less than `size`, and b"" at the end only."""
        if size is None or size < 0:
            return self.readall()
        return bytes(self._take(size))

    def close(self) -> None:
        self._closed_with()
        super().close()

    def _take(self, size: int) -> memoryview:
        self.start()
        if not self._ready and self._held is not None:
            following = self._next()
            self._ready, self._held = memoryview(self._held), following
        taken, self._ready = self._ready[:size], self._ready[size:]
        return taken

    def _next(self) -> bytes | None:
        """None, verified, at the end."""
        if data := self._receive():
            self._hasher.update(data)
            return data
        actual = B3Digest(self._hasher.digest())
        if actual != self._digest:
            raise StoreCorrupt(
                f"blob {self._digest}: {self._place} gave contents with digest {actual}"
            )
        return None
