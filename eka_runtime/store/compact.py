"""Compressing small blobs that no checkout uses, in new packs.

Blobs are read, compressed with zstd and appended like new ones; one transaction then leads their
rows to the new place. Where they lay is given back by a collection, when nobody is left who may
have read the old row. Killed at any moment it leaves what any addition leaves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import zstandard

from eka_runtime.castore.blobs import BlobRow, decoded
from eka_runtime.castore.extents import forget
from eka_runtime.linux.syscalls import syncfs
from eka_runtime.store.layout import access_errors, collector_lock, require_own
from eka_runtime.store.sweep import sweep

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

LEVEL = 9

# Rewriting is worth it when at least an eighth is saved.
_WORTH = 8
_AT_ONCE = 1000
_RAW = """
    select digest, size, name, pack, start, stored from blob
    where pack is not null and stored is null and dead is null and (pack, start) > (?, ?)
    order by pack, start limit ?
"""
_MOVE = """
    update blob set pack = ?, start = ?, stored = ? where digest = ? and pack = ? and start = ?
"""


class Compacted(NamedTuple):
    """`before` and `after` are bytes of contents in packs, of the blobs that were compressed."""

    blobs: int
    before: int
    after: int


class _Small(NamedTuple):
    row: BlobRow
    data: bytes


def compact(
    store: Store, *, level: int = LEVEL, progress: Callable[[int, int], None] | None = None
) -> Compacted:
    """Raises StoreCorrupt for damaged contents, which are never compressed, and StoreAccessError.

    What was done until then stays. Nothing else may be added through this Store meanwhile.
    """
    require_own(store.layout)
    done = Compacted(0, 0, 0)
    with _alone(store):
        for rows in _raw_rows(store):
            small = list(_compressed(store, rows, level))
            done = Compacted(
                done.blobs + _move(store, small),
                done.before + sum(one.row.size for one in small),
                done.after + sum(len(one.data) for one in small),
            )
            if progress is not None:
                progress(done.blobs, done.before)
        with store.database.transaction() as conn:
            conn.execute("update epoch set number = number + 1")
        # What is not kept open any more can be given back at once.
        store.blobs.appender.reset()
        sweep(store)
    return done


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    layout = store.layout
    with access_errors(layout), collector_lock(layout), store.uninvolved():
        try:
            yield
        finally:
            # Takes back what was written in vain, after an error.
            store.blobs.appender.reset()


def _raw_rows(store: Store) -> Iterator[list[BlobRow]]:
    position = (-1, -1)
    while True:
        found = store.database.connection.execute(_RAW, (*position, _AT_ONCE)).fetchall()
        if not found:
            return
        rows = [decoded(row) for row in found]
        position = rows[-1].pack, rows[-1].start
        yield rows


def _compressed(store: Store, rows: list[BlobRow], level: int) -> Iterator[_Small]:
    compressor = zstandard.ZstdCompressor(level)
    for row in rows:
        if row.size and not _has_twin(store, row):
            store.blobs.verify_row(row)
            data = compressor.compress(store.blobs.read_packed(row))
            if len(data) <= row.size - row.size // _WORTH:
                yield _Small(row, data)


def _has_twin(store: Store, row: BlobRow) -> bool:
    digits = row.digest.hex()
    shard = store.layout.twins / digits[:2]
    return any(os.path.lexists(shard / f"{digits}-{kind}0") for kind in "rx")


def _move(store: Store, small: list[_Small]) -> int:
    if not small:
        return 0
    appender = store.blobs.appender
    pack, starts = appender.append([one.data for one in small])
    appender.drain()
    with suppress(FileNotFoundError):
        fd = os.open(store.layout.packs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        finally:
            os.close(fd)
    moved = 0
    with store.database.transaction() as conn:
        epoch = store.database.epoch()
        for (row, data), start in zip(small, starts, strict=True):
            place = (pack, start, len(data), row.digest, row.pack, row.start)
            if conn.execute(_MOVE, place).rowcount:
                conn.execute(
                    "insert into moved values (?, ?, ?, ?)", (row.pack, row.start, row.size, epoch)
                )
                moved += 1
        forget(conn, {one.row.pack for one in small})
    appender.keep()
    return moved
