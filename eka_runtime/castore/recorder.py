"""Takes small contents of one tree into packs, together with the NAR around them (`extents.py`).

It gets the bytes of the NAR as they are hashed, and is told where in it contents lie. They reach
the batch a mebibyte at a time, so nothing is done for each file but what its row needs. Large
contents, which have files of their own, are cut out. A tree of which the store has much already is
not worth it: only what is new of its contents goes into packs then, one behind the other, as does
what is small altogether.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from operator import itemgetter
from typing import NamedTuple

from blake3 import blake3

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.extents import Extent, rows_sum, said_of_row
from eka_runtime.castore.node import DirectoryNode, Node

_Data = bytes | bytearray | memoryview

_FLUSH = 1 << 20
_FLUSH_FILES = 1 << 12
# Less than both is not worth the rows, which would be as many as those of paths.
_WORTH = 1 << 17
_WORTH_FILES = 32
# Of contents, one in so many bytes may be known already and is written again.
_AGAIN = 16
_AGAIN_MIN = 1 << 12

_begin_of = itemgetter(1)


class _Small(NamedTuple):
    """Contents of a file that goes into a pack; `begin` counts from the first byte that is kept."""

    digest: B3Digest
    begin: int
    size: int


class _Cut(NamedTuple):
    """A blob with a file of its own, and how many bytes are kept before it."""

    at: int
    digest: B3Digest
    size: int


class NarRecorder:
    """For one NAR, from its first byte on; used from the thread that has the batch.

    `small`, or `large` and `known`, announce contents in the order of the NAR; positions are those
    in the NAR. Contents that are announced come with the next bytes, or have just come.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._position = 0  # in the NAR
        self._skips: deque[tuple[int, int]] = deque()
        self._skipped = 0  # of what was announced
        # What is kept, and not flushed yet: from `_base` on.
        self._pieces: list[memoryview] = []
        self._base = self._kept = 0
        self._due = 0  # as much has to be kept before anything is flushed
        self._small: list[_Small] = []
        self._cuts: list[_Cut] = []
        self._extents: list[Extent] | None = []
        self._seen = self._again = 0

    def small(self, digest: B3Digest, begin: int, size: int) -> None:
        """A file of less than PACKED_MAX bytes."""
        at = begin - self._skipped
        self._small.append(_Small(digest, at, size))
        self._due = at + size

    def large(self, begin: int, size: int) -> None:
        """A larger one, whose digest is said by `known` before anything else is announced."""
        self._skips.append((begin, begin + size))
        self._at = begin - self._skipped
        self._skipped += size

    def known(self, digest: B3Digest, size: int) -> None:
        self._cuts.append(_Cut(self._at, digest, size))
        self._due = self._at

    def feed(self, data: _Data) -> None:
        """The next bytes of the NAR. What is not a memoryview must not change any more."""
        begin, self._position = self._position, self._position + len(data)
        view = memoryview(data)
        while self._skips and self._skips[0][0] < self._position:
            first, last = self._skips[0]
            if first > begin:
                self._keep(data, view[: first - begin])
            behind = min(last, self._position)
            view, begin = view[behind - begin :], behind
            if last > self._position:
                break
            self._skips.popleft()
        if view:
            self._keep(data, view)
        full = self._kept - self._base >= _FLUSH or len(self._small) >= _FLUSH_FILES
        # Not while some of what was announced is still to come.
        if full and self._due <= self._kept:
            self._flush()

    def finish(self, node: Node) -> None:
        """At the end of the NAR of `node`."""
        if self._kept - self._base < _WORTH and len(self._small) < _WORTH_FILES and not self._base:
            self._extents = None
        self._flush()
        if self._extents and isinstance(node, DirectoryNode):
            self._batch.add_extents(node.digest, self._extents)

    def _keep(self, data: _Data, view: memoryview) -> None:
        # A view of somebody's buffer, which is used again.
        self._pieces.append(memoryview(bytes(view)) if isinstance(data, memoryview) else view)
        self._kept += len(view)

    def _flush(self) -> None:
        base, self._base = self._base, self._kept
        pieces, small, cuts = self._pieces, self._small, self._cuts
        self._pieces, self._small, self._cuts = [], [], []
        new = self._new_among(small) if self._extents is not None else []
        if self._extents is None:
            data = b"".join(pieces)
            for digest, begin, size in small:
                self._batch.offer(digest, data[begin - base : begin - base + size])
        elif pieces:
            self._extents += self._written(pieces, base, new, cuts)

    def _new_among(self, small: list[_Small]) -> list[_Small]:
        """Those that have to be written, once each; too few of them, and nothing more is kept."""
        unknown = self._batch.unknown([one.digest for one in small])
        new = []
        for one in small:
            self._seen += one.size
            if one.digest in unknown:
                unknown.discard(one.digest)
                new.append(one)
            else:
                self._again += one.size
        if self._again > max(_AGAIN_MIN, self._seen // _AGAIN):
            self._extents = None
        return new

    def _written(
        self, pieces: list[memoryview], base: int, new: list[_Small], cuts: list[_Cut]
    ) -> Iterator[Extent]:
        """What was kept from `base` on goes into a pack, in one stretch."""
        places = [(digest, begin - base, size) for digest, begin, size in new]
        pack, start = self._batch.add_packed(pieces, places)
        remaining, low, row = deque(pieces), 0, 0
        for cut in [*cuts, None]:
            high = self._base - base if cut is None else cut.at - base
            if high > low:
                end = bisect_left(places, high, lo=row, key=_begin_of)
                said = [said_of_row(one, start + at, size) for one, at, size in places[row:end]]
                sums = _sum(remaining, high - low), rows_sum(b";".join(said))
                yield Extent(pack, start + low, high - low, *sums)
                low, row = high, end
            if cut is not None:
                yield Extent(None, 0, cut.size, cut.digest, None)


def _sum(pieces: deque[memoryview], size: int) -> bytes:
    """Of the next bytes, which it takes away."""
    hasher = blake3()
    while size:
        piece = pieces.popleft()
        hasher.update(piece[:size])
        if len(piece) > size:
            pieces.appendleft(piece[size:])
        size -= min(size, len(piece))
    return hasher.digest()
