"""Finds store paths in what was built, by the 32 digits of their hashes alone, as Nix does.

`Scanner` is fed a NAR in pieces of any size, so that contents, names and link targets are all
looked at, and what lies across pieces is seen. Occurrences may overlap.

Constraint: everything that is ever built goes through here, so the search is done by the methods of
`bytes`. Digits become ones, everything else zeros. Of 32 digits in a row, four of every eighth byte
are digits: in most data that is rare enough to tell where to look closer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from eka_runtime.nix import base32
from eka_runtime.nix.path import HASH_LENGTH, StorePath

Data = bytes | bytearray | memoryview

_ONES = b"\1" * HASH_LENGTH
_TABLE = bytes(1 if chr(byte) in base32.ALPHABET else 0 for byte in range(256))
_STEP = 8
_SAMPLE = b"\1" * (HASH_LENGTH // _STEP)
# Beyond one sample in so many, looking closer everywhere costs less.
_RARE = 64
# Longer runs of digits (encoded data, a file of zeros) are searched for each hash instead.
_LONG = 1 << 10


class Scanner:
    """Which of some store paths occur in a stream."""

    def __init__(self, candidates: Iterable[StorePath]) -> None:
        self._sought = {path.hash.encode(): path for path in candidates}
        self._found: set[StorePath] = set()
        self._tail = b""

    def update(self, data: Data) -> None:
        if not self._sought:
            return
        if self._tail:
            head = bytes(data[: HASH_LENGTH - 1])
            self._scan(self._tail + head)
        whole = bytes(data)
        self._scan(whole)
        self._tail = (self._tail + whole[-HASH_LENGTH:])[-(HASH_LENGTH - 1) :]

    def found(self) -> tuple[StorePath, ...]:
        """Sorted."""
        return tuple(sorted(self._found))

    def _scan(self, data: bytes) -> None:
        for part in _suspects(data):
            for start, end in _runs(part):
                for needle in _occurring(part, start, end, self._sought):
                    self._found.add(self._sought.pop(needle))


def _suspects(data: bytes) -> Iterator[bytes]:
    """Parts in which 32 digits may follow each other, some of them more than once."""
    marks = data[_STEP - 1 :: _STEP].translate(_TABLE)
    if marks.count(_SAMPLE) * _RARE > len(marks):
        yield data
        return
    at = marks.find(_SAMPLE)
    while at >= 0:
        end = marks.find(b"\0", at)
        end = len(marks) if end < 0 else end
        yield data[at * _STEP : end * _STEP + _STEP]
        at = marks.find(_SAMPLE, end)


def _runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Where 32 and more digits follow each other."""
    marks = data.translate(_TABLE)
    start = marks.find(_ONES)
    while start >= 0:
        end = marks.find(b"\0", start + HASH_LENGTH)
        end = len(marks) if end < 0 else end
        yield start, end
        start = marks.find(_ONES, end)


def _occurring(data: bytes, start: int, end: int, sought: Iterable[bytes]) -> list[bytes]:
    if end - start > _LONG:
        return [needle for needle in sought if data.find(needle, start, end) >= 0]
    windows = {data[at : at + HASH_LENGTH] for at in range(start, end - HASH_LENGTH + 1)}
    return [needle for needle in windows if needle in sought]


class Rewriter:
    """Replaces texts by others of the same length in a stream, and remembers where they stood.

    `positions` are those of replaced texts, in order. `write` gets everything, in some pieces.
    """

    def __init__(self, texts: dict[bytes, bytes], write: Callable[[bytes], object]) -> None:
        if any(len(old) != len(new) for old, new in texts.items()):
            raise ValueError("a text can only be replaced by one of its length")
        self.positions: list[int] = []
        self._texts = texts
        self._write = write
        self._keep = max(map(len, texts), default=1) - 1
        self._buffer = bytearray()
        self._at = 0

    def update(self, data: Data) -> None:
        self._buffer += data
        self._replace()
        cut = max(len(self._buffer) - self._keep, 0)
        self._pass_on(cut)

    def finish(self) -> None:
        self._pass_on(len(self._buffer))

    def _replace(self) -> None:
        for old, new in self._texts.items():
            at = self._buffer.find(old)
            while at >= 0:
                self.positions.append(self._at + at)
                self._buffer[at : at + len(old)] = new
                at = self._buffer.find(old, at + len(old))

    def _pass_on(self, size: int) -> None:
        if size:
            self._write(bytes(self._buffer[:size]))
        self._at += size
        del self._buffer[:size]
