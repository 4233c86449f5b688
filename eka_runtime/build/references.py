"""Finds store paths in what was built, by the 32 digits of their hashes alone, as Nix does.

`Scanner` is fed a NAR in pieces of any size, so that contents, names and link targets are all
looked at, and what lies across pieces is seen. Occurrences may overlap.

Constraint: everything that is ever built goes through here, so the search is done by the methods of
`bytes`. Digits become ones, everything else zeros. Of 32 digits in a row, one of every 32nd byte is
a digit, and four of every eighth: in most data one of these is rare enough to tell where to look
closer. Where digits are everywhere (hexadecimal dumps), words of eight bytes are looked up instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from eka_runtime.nix import base32
from eka_runtime.nix.path import HASH_LENGTH, StorePath

Data = bytes | bytearray | memoryview

_ONES = b"\1" * HASH_LENGTH
_TABLE = bytes(1 if chr(byte) in base32.ALPHABET else 0 for byte in range(256))
_STEPS = (32, 8, 4)
# Beyond one sample in so many, looking closer everywhere costs less.
_RARE = 256
# Beyond one byte in so many within 32 digits in a row, so does looking up words.
_DENSE = 8
_LOOK = 1 << 14
_WORD = 8
# Of 32 bytes in a row, wherever they begin, the first word of three is among them as a whole.
_EVERY = 3
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
            marks = part.translate(_TABLE)
            if len(part) > _LONG and _share(marks, _ONES) * HASH_LENGTH * _DENSE > 1:
                self._note(self._among_words(part))
                continue
            for start, end in _runs(marks):
                self._note(_occurring(part, start, end, self._sought))

    def _note(self, needles: Iterable[bytes]) -> None:
        for needle in needles:
            self._found.add(self._sought.pop(needle))

    def _among_words(self, data: bytes) -> list[bytes]:
        words = memoryview(data)[: len(data) // _WORD * _WORD].cast("Q")
        if self._words.isdisjoint(words[::_EVERY]):
            return []
        return [needle for needle in self._sought if needle in data]

    @cached_property
    def _words(self) -> frozenset[int]:
        """Those that one of every three in a row may be, where one of the hashes is."""
        starts = range(_WORD * _EVERY)
        words = (needle[at : at + _WORD] for needle in self._sought for at in starts)
        return frozenset(int.from_bytes(word, sys.byteorder) for word in words)


def _suspects(data: bytes) -> Iterator[bytes]:
    """Parts in which 32 digits may follow each other, some of them more than once."""
    for step in _STEPS:
        marks = data[step - 1 :: step].translate(_TABLE)
        sample = b"\1" * (HASH_LENGTH // step)
        if _share(marks, sample) * _RARE <= 1:
            break
    else:
        yield data
        return
    at = marks.find(sample)
    while at >= 0:
        end = marks.find(b"\0", at)
        end = len(marks) if end < 0 else end
        yield data[at * step : end * step + step]
        at = marks.find(sample, end)


def _share(marks: bytes, sample: bytes) -> float:
    """How many times one stands in so many marks, by a look at the middle."""
    middle = marks[len(marks) // 2 :][:_LOOK]
    return middle.count(sample) / (len(middle) or 1)


def _runs(marks: bytes) -> Iterator[tuple[int, int]]:
    """Where 32 and more digits follow each other."""
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
