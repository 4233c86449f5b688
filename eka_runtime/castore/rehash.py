"""Hashing stored blobs again, on all cores.

Worker processes, because the contents are small: threads would hand Python's lock to and fro for
each of them. Workers see files only, not the database, and die with their parent.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from eka_runtime.castore.blobs import BlobFiles, BlobRow
from eka_runtime.errors import StoreError
from eka_runtime.linux.syscalls import die_with_parent

# A piece of work: so many bytes, or blobs.
_BYTES = 1 << 24
_BLOBS = 4096
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


def rehash(blobs: BlobFiles, rows: Iterable[BlobRow]) -> Iterator[Rehashed]:
    """Reads all contents; yields what was found, piece by piece, in the order of `rows`.

    Best in the order of packs and offsets: then disks are read from beginning to end.
    """
    pieces = _pieces(rows)
    places = blobs.directory, blobs.packs.directory
    first = next(pieces, [])
    workers = os.cpu_count() or 1
    if workers == 1 or sum(row.size for row in first) < min(_ALONE, _BYTES):
        yield _rehash(*places, first)
        for piece in pieces:
            yield _rehash(*places, piece)
        return
    pending: deque[Future[Rehashed]] = deque()
    with ProcessPoolExecutor(workers, get_context("fork"), die_with_parent) as pool:
        try:
            pending.append(pool.submit(_rehash, *places, first))
            for piece in pieces:
                pending.append(pool.submit(_rehash, *places, piece))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _pieces(rows: Iterable[BlobRow]) -> Iterator[list[BlobRow]]:
    piece: list[BlobRow] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += row.size
        if size >= _BYTES or len(piece) >= _BLOBS:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _rehash(directory: Path, packs: Path, rows: list[BlobRow]) -> Rehashed:
    wrong = []
    with BlobFiles(directory, packs) as files:
        for row in rows:
            try:
                files.verify_row(row)
            except StoreError as error:
                wrong.append(Wrong(row, str(error)))
    return Rehashed(len(rows), sum(row.size for row in rows), wrong)
