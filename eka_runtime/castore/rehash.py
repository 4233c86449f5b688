"""Hashing stored blobs again, on all cores.

Worker processes, because the contents are small: threads would hand Python's lock to and fro for
each of them. Workers die with their parent, and use nothing of his but what is in these files.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar

from eka_runtime.castore.blobs import BlobFiles, BlobRow, LocalBlobs
from eka_runtime.castore.database import Database
from eka_runtime.errors import StoreError
from eka_runtime.linux.syscalls import die_with_parent
from eka_runtime.nix import base32

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

T = TypeVar("T")

MAX_OFFSET = (1 << 63) - 1

# A piece of work: so many bytes of a pack, so many rows, one of so many groups of files.
_BYTES = 1 << 24
_ROWS = 4096
_SHARDS = 8
# Below this, starting workers takes longer than the work.
_ALONE = 1 << 26
_AHEAD = 64


class Wrong(NamedTuple):
    """A blob that is not what its row says, and how."""

    row: BlobRow
    detail: str


class Rehashed(NamedTuple):
    blobs: int
    size: int
    wrong: list[Wrong]


class _Piece(NamedTuple):
    """What lies in a pack from `low` to `high`; or, if `pack` is None, files of these names."""

    pack: int | None
    low: int | str
    high: int | str


class Rehashing(Generic[T]):
    """Work on parts, which goes on in workers from now on where it is enough for them.

    A context manager; iterating gives what was found, in the order of the parts. Leaving it ends
    the workers.
    """

    def __init__(self, work: Callable[[T], Rehashed], parts: Iterable[T], size: int) -> None:
        self._work = work
        self._parts = iter(parts)
        self._pending: deque[Future[Rehashed]] = deque()
        self._pool: ProcessPoolExecutor | None = None
        workers = os.cpu_count() or 1
        if workers > 1 and size >= _ALONE:
            # 40 ms, which small stores need not spend.
            from concurrent.futures import ProcessPoolExecutor
            from multiprocessing import get_context

            self._pool = ProcessPoolExecutor(workers, get_context("fork"), die_with_parent)
            self._submit(self._pool, _AHEAD * workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Rehashed]:
        if self._pool is None:
            yield from map(self._work, self._parts)
            return
        while self._pending:
            yield self._pending.popleft().result()
            self._submit(self._pool, 1)

    def _submit(self, pool: ProcessPoolExecutor, most: int) -> None:
        for part in islice(self._parts, most):
            self._pending.append(pool.submit(self._work, part))


def rehash_all(blobs: LocalBlobs, database: Path, size: int) -> Rehashing[_Piece]:
    """Reads all contents, in the order in which they lie on disk.

    `size` is about how many bytes there are. The workers read the rows as well: handing those over
    would cost more than the hashing.
    """
    places = database, blobs.directory, blobs.packs.directory
    return Rehashing(partial(_rehash_piece, *places), _pieces(blobs), size)


def rehash(files: BlobFiles, rows: Iterable[BlobRow]) -> Rehashing[list[BlobRow]]:
    """As `rehash_all`, for given rows."""
    parts = list(_batched(rows))
    size = sum(row.size for part in parts for row in part)
    return Rehashing(partial(_rehash, files.directory, files.packs.directory), parts, size)


def _pieces(blobs: LocalBlobs) -> Iterator[_Piece]:
    for pack in blobs.pack_numbers():
        try:
            size = blobs.packs.size(pack)
        except OSError:
            size = 0
        edges = [*range(0, max(size, 1), _BYTES), MAX_OFFSET]
        for low, high in pairwise(edges):
            yield _Piece(pack, low, high)
    shards = [f"{a}{b}/" for a in base32.ALPHABET for b in base32.ALPHABET[::_SHARDS]]
    for first, following in pairwise(["", *shards[1:], "~"]):
        yield _Piece(None, first, following)


def _batched(rows: Iterable[BlobRow]) -> Iterator[list[BlobRow]]:
    remaining = iter(rows)
    while some := list(islice(remaining, _ROWS)):
        yield some


def _rehash_piece(database: Path, directory: Path, packs: Path, piece: _Piece) -> Rehashed:
    opened = Database(database, readonly=True)
    try:
        rows = LocalBlobs(directory, packs, opened).rows_between(*piece)
    finally:
        opened.close()
    return _rehash(directory, packs, rows)


def _rehash(directory: Path, packs: Path, rows: list[BlobRow]) -> Rehashed:
    wrong = []
    with BlobFiles(directory, packs) as files:
        for row in rows:
            try:
                files.verify_row(row)
            except StoreError as error:
                wrong.append(Wrong(row, str(error)))
    return Rehashed(len(rows), sum(row.size for row in rows), wrong)
