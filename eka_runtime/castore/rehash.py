"""Hashing stored blobs again, on all cores.

Worker processes, because the contents are small: threads would hand Python's lock to and fro for
each of them. They use nothing of their parent's but what is in these files. Packs are read in long
stretches, since a read for each blob would cost as much as hashing it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

from eka_runtime.castore.blobs import BlobFiles, BlobRow, LocalBlobs
from eka_runtime.castore.database import Database
from eka_runtime.castore.extents import MAX_OFFSET, extents_end, intact_extents
from eka_runtime.castore.workers import Workers
from eka_runtime.closing import Closing
from eka_runtime.errors import StoreError
from eka_runtime.nix import base32

T = TypeVar("T")

# A piece of work: so many bytes of a pack, so many rows, one of so many groups of files.
_BYTES = 1 << 24
_ROWS = 4096
_SHARDS = 8
# Below this, starting workers takes longer than the work.
_ALONE = 1 << 26


class Wrong(NamedTuple):
    """A blob that is not what its row says, and how."""

    row: BlobRow
    detail: str


class Rehashed(NamedTuple):
    blobs: int
    size: int
    wrong: list[Wrong]

    def plus(self, other: Rehashed) -> Rehashed:
        wrong = self.wrong + other.wrong
        return Rehashed(self.blobs + other.blobs, self.size + other.size, wrong)


class _Piece(NamedTuple):
    """What lies in a pack from `low` to `high`; or, if `pack` is None, files of these names."""

    pack: int | None
    low: int | str
    high: int | str


class Rehashing(Closing):
    """Work on parts, which goes on in workers from now on where it is enough for them.

    A context manager; iterating gives what was found, in the order of the parts. Leaving it ends
    the workers.
    """

    def __init__(
        self, work: Callable[[Sequence[T]], Iterator[Rehashed]], parts: Sequence[T], size: int
    ) -> None:
        number = len(os.sched_getaffinity(0))
        self._workers: Workers[T, Rehashed] | None = None
        if number > 1 and size >= _ALONE:
            # Where no process is to be had, this one does all of it.
            with suppress(OSError):
                self._workers = Workers(work, parts, number)
        self._found = work(parts) if self._workers is None else iter(self._workers)

    def __iter__(self) -> Iterator[Rehashed]:
        return self._found

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close()


def rehash_all(blobs: LocalBlobs, database: Path, size: int) -> Rehashing:
    """Reads all contents, in the order in which they lie on disk.

    `size` is about how many bytes there are. The workers read the rows as well: handing those over
    would cost more than the hashing.
    """
    places = database, blobs.directory, blobs.packs.directory
    return Rehashing(partial(_rehash_pieces, *places), list(_pieces(blobs)), size)


def rehash(files: BlobFiles, rows: Iterable[BlobRow]) -> Rehashing:
    """As `rehash_all`, for given rows."""
    parts = list(_batched(rows))
    size = sum(row.size for part in parts for row in part)
    return Rehashing(partial(_rehash_batches, files.directory, files.packs.directory), parts, size)


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


def _rehash_pieces(
    database: Path, directory: Path, packs: Path, pieces: Sequence[_Piece]
) -> Iterator[Rehashed]:
    opened = Database(database, readonly=True)
    try:
        with LocalBlobs(directory, packs, opened) as blobs:
            for piece in pieces:
                yield _rehash_piece(blobs, piece, opened.connection)
    finally:
        opened.close()


def _rehash_piece(blobs: LocalBlobs, piece: _Piece, conn: sqlite3.Connection) -> Rehashed:
    if piece.pack is None:
        return _rehash(blobs, blobs.files_between(str(piece.low), str(piece.high)))
    pack, found = piece.pack, Rehashed(0, 0, [])
    # An extent belongs to the piece in which it begins, with all that lies in it.
    low, high = int(piece.low), int(piece.high)
    position = max(low, extents_end(conn, pack, low))
    high = max(high, extents_end(conn, pack, high))
    for one in intact_extents(blobs, conn, pack, position, high):
        found = found.plus(_rehash_rows(blobs, pack, position, one.start))
        found = found.plus(Rehashed(one.blobs, one.contents, []))
        position = one.end
    return found.plus(_rehash_rows(blobs, pack, position, high))


def _rehash_rows(blobs: LocalBlobs, pack: int, low: int, high: int) -> Rehashed:
    if low >= high:
        return Rehashed(0, 0, [])
    rows = blobs.packed_between(pack, low, high)
    # Whole stretches at once; only what is odd about them is looked at by itself.
    odd = _rehash(blobs, list(blobs.differing(rows)))
    return Rehashed(len(rows), sum(row[3] for row in rows), odd.wrong)


def _rehash_batches(
    directory: Path, packs: Path, batches: Sequence[list[BlobRow]]
) -> Iterator[Rehashed]:
    with BlobFiles(directory, packs) as files:
        for rows in batches:
            yield _rehash(files, rows)


def _rehash(files: BlobFiles, rows: list[BlobRow]) -> Rehashed:
    wrong = []
    for row in rows:
        try:
            files.verify_row(row)
        except StoreError as error:
            wrong.append(Wrong(row, str(error)))
    return Rehashed(len(rows), sum(row.size for row in rows), wrong)
