"""Takes small contents of one tree into packs, together with the NAR around them (`extents.py`).

It gets the bytes of the NAR as they are hashed, and is told where in it contents lie. They reach
the batch a mebibyte at a time, so nothing is done for each file but what its row needs. Large
contents, which have files of their own, are cut out. A tree of which the store has much already is
not worth it: only what is new of its contents goes into packs then, one behind the other, as does
what is small altogether.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from blake3 import blake3

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.extents import Cut, Extent, encoded, rows_sum, said_of_row
from eka_runtime.castore.node import DirectoryNode, Node

if TYPE_CHECKING:
    from concurrent.futures import Future

Beside = Callable[..., "Future[Any]"]

_Data = bytes | bytearray | memoryview

_FLUSH = 1 << 20
_FLUSH_FILES = 1 << 12
# Less than both is not worth the rows, which would be as many as those of paths.
_WORTH = 1 << 17
_WORTH_FILES = 32
# Of contents, one in so many bytes may be known already and is written again.
_AGAIN = 16
_AGAIN_MIN = 1 << 12
# So many extents wait for their sums, each with its bytes.
_BESIDE_MAX = 8


class _Small(NamedTuple):
    """Contents of a file that goes into a pack; `begin` counts from the first byte that is kept."""

    digest: B3Digest
    begin: int
    size: int


class _Written(NamedTuple):
    """An extent whose sums are still computed."""

    pack: int
    start: int
    size: int
    sums: Future[tuple[bytes, bytes]]
    cuts: bytes


class NarRecorder:
    """For one NAR, from its first byte on; used from the thread that has the batch.

    `small`, or `large` and `known`, announce contents in the order of the NAR; positions are those
    in the NAR. Contents that are announced come with the next bytes, or have just come.
    """

    def __init__(self, batch: Batch, beside: Beside) -> None:
        """`beside` does something in another thread."""
        self._batch = batch
        self._beside = beside
        self._position = 0  # in the NAR
        # Large contents that were announced: from where to where, and how much altogether.
        self._skips: deque[tuple[int, int]] = deque()
        self._skipped = 0
        self._at = 0  # of the last of them, in what is kept
        # What is kept, and not flushed yet: from `_base` on.
        self._pieces: list[memoryview] = []
        self._base = self._kept = 0
        self._due = 0  # as much has to be kept before anything is flushed
        self._small: list[_Small] = []
        self._cuts: list[Cut] = []  # from the first byte that is kept
        self._written: list[_Written] | None = []
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
        self._cuts.append(Cut(self._at, size, digest))
        self._due = self._at

    def feed(self, data: _Data) -> None:
        """The next bytes of the NAR. Only of a memoryview, if not of bytes, they may change."""
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
            self._written = None
        self._flush()
        if self._written and isinstance(node, DirectoryNode):
            self._batch.add_extents(node.digest, [_extent(one) for one in self._written])

    def _keep(self, data: _Data, view: memoryview) -> None:
        # A view of somebody's buffer, which is used again, if not of bytes.
        transient = isinstance(data, memoryview) and not isinstance(view.obj, bytes)
        self._pieces.append(memoryview(bytes(view)) if transient else view)
        self._kept += len(view)

    def _flush(self) -> None:
        base, self._base = self._base, self._kept
        pieces, small, cuts = self._pieces, self._small, self._cuts
        self._pieces, self._small, self._cuts = [], [], []
        new = self._new_among(small) if self._written is not None else []
        if self._written is None:
            data = b"".join(pieces)
            for digest, begin, size in small:
                self._batch.offer(digest, data[begin - base : begin - base + size])
        elif pieces:
            own = encoded(Cut(at - base, size, digest) for at, size, digest in cuts)
            self._written.append(self._write(pieces, base, new, own))
            if len(self._written) > _BESIDE_MAX:
                self._written[-_BESIDE_MAX].sums.result()

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
            self._written = None
        return new

    def _write(
        self, pieces: list[memoryview], base: int, new: list[_Small], cuts: bytes
    ) -> _Written:
        """What was kept from `base` on goes into a pack, in one piece."""
        places = [(digest, begin - base, size) for digest, begin, size in new]
        pack, start = self._batch.add_packed(pieces, places)
        size = self._base - base
        beside = self._beside if size >= _FLUSH else now
        return _Written(pack, start, size, beside(_sums, pieces, start, places), cuts)


def now(job: Callable[..., Any], *args: object) -> Future[Any]:
    """As `Intake.beside`, in this thread."""
    from concurrent.futures import Future

    done: Future[Any] = Future()
    done.set_result(job(*args))
    return done


def _sums(
    pieces: list[memoryview], start: int, places: list[tuple[B3Digest, int, int]]
) -> tuple[bytes, bytes]:
    hasher = blake3()
    for piece in pieces:
        hasher.update(piece)
    said = b";".join([said_of_row(digest, start + at, size) for digest, at, size in places])
    return hasher.digest(), rows_sum(said)


def _extent(one: _Written) -> Extent:
    return Extent(one.pack, one.start, one.size, *one.sums.result(), one.cuts)
