"""Extents: where in packs the NAR of a directory lies already, piece by piece.

A tree whose contents are new is put into packs together with what its NAR has around them, so that
its NAR is written without looking at directories and blobs, and that contents are verified a
mebibyte at a time. Nothing depends on extents: whatever is not found as it was written, or not
there at all, is put together from directories and blobs, as the NARs of all other trees are.

    extent  node    the directory at the root, whose row takes these along when it goes
            nth     in the order of the NAR
            pack, start   null for a blob that has a file of its own
            size    in bytes
            sum     BLAKE3 of the bytes
            rows    BLAKE3 of what rows say of the blobs that begin in it: see `ROWS`

The table is made when the first one comes; eka that does not know it opens the store as well, and
what it does to packs makes extents invalid at worst.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.services import require_blob
from eka_runtime.errors import StoreCorrupt, StoreError

if TYPE_CHECKING:
    from eka_runtime.castore.blobs import LocalBlobs

_CREATE = (
    "create table if not exists extent ("
    " node blob not null references directory (digest) on delete cascade,"
    " nth integer not null, pack integer, start integer, size integer not null,"
    " sum blob not null, rows blob,"
    " primary key (node, nth)) strict, without rowid",
    "create index if not exists extent_pack on extent (pack, start) where pack is not null",
)
MAX_OFFSET = (1 << 63) - 1

_INSERT = "insert into extent values (?, ?, ?, ?, ?, ?, ?)"
_OF = "select pack, start, size, sum, rows from extent where node = ? order by nth"
_BETWEEN = """
    select pack, start, size, sum, rows from extent
    where pack = ? and start >= ? and start < ? order by start
"""
_END = "select max(start + size) from extent where pack = ? and start < ?"
_PLACES = "select start, start + size from extent where pack = ? order by start"
_OF_DEAD = """
    select distinct pack from extent
    where node in (select digest from directory where dead < ?) and pack is not null
"""
_FORGET = "delete from extent where node in (select node from extent where pack = ?)"

ROWS = """
    select count(*), total(size), cast(group_concat(
        digest || start || ',' || size || ',' || ifnull(stored, ''), ';') as blob)
    from (select digest, start, size, stored from blob
          where pack = ? and start >= ? and start < ? order by start)
"""


# Larger ones would come from the kernel, and go back to it, each time.
_PIECE = 1 << 18
_REPAIR = "run `eka store verify`"
# Written ones have a mebibyte and a little; more is not read at once, whatever a row says.
_SIZE_MAX = 1 << 23


class Extent(NamedTuple):
    """`pack` is None for a blob with a file of its own, whose digest is `sum`."""

    pack: int | None
    start: int
    size: int
    sum: bytes
    rows: bytes | None


def rows_sum(said: bytes | None) -> bytes:
    """Of what `ROWS` says."""
    return blake3(said or b"").digest()


def said_of_row(digest: bytes, start: int, size: int) -> bytes:
    """What `ROWS` says of one blob, without the semicolon before the next."""
    return b"%b%d,%d," % (digest, start, size)


def record(conn: sqlite3.Connection, node: B3Digest, extents: Iterable[Extent]) -> None:
    """Inside the transaction of the caller, when the directory has its row."""
    for statement in _CREATE:
        conn.execute(statement)
    # Those of two processes that came at once do not go together.
    if extents_of(conn, node):
        return
    rows = [
        (node, nth, one.pack, one.start if one.pack is not None else None, *one[2:])
        for nth, one in enumerate(extents)
    ]
    conn.executemany(_INSERT, rows)


def extents_of(conn: sqlite3.Connection, node: B3Digest) -> list[Extent]:
    """All of a directory's NAR, in order; [] if nothing is known."""
    return _select(conn, _OF, (node,))


def extents_between(conn: sqlite3.Connection, pack: int, low: int, high: int) -> list[Extent]:
    """Those that start there in a pack, in the order in which they lie."""
    return _select(conn, _BETWEEN, (pack, low, high))


class Intact(NamedTuple):
    """An extent in which everything is as it was written: where it lies, and what is in it."""

    start: int
    end: int
    blobs: int
    contents: int
    """Bytes of those blobs."""


def intact_extents(
    blobs: LocalBlobs, conn: sqlite3.Connection, pack: int, low: int, high: int
) -> Iterator[Intact]:
    """Of those that start there in a pack, in order: all bytes are read, and all rows.

    The digests of the blobs that begin in it were computed from the same bytes as its sum.
    """
    position, buffer = low, _Buffer(blobs)
    for one in extents_between(conn, pack, low, high):
        end = one.start + one.size
        if one.start < position or not buffer.reads(one):
            continue
        number, contents, said = conn.execute(ROWS, (pack, one.start, end)).fetchone()
        if rows_sum(said) == one.rows:
            yield Intact(one.start, end, number, int(contents))
            position = end


class _Buffer:
    """Memory for one extent after the other: new one for each would cost as much as reading."""

    def __init__(self, blobs: LocalBlobs) -> None:
        self._packs = blobs.packs
        self._memory = bytearray()
        self.view = memoryview(self._memory)

    def reads(self, extent: Extent) -> bool:
        """Whether it is there, and has its sum; then `view` has its bytes."""
        if extent.pack is None or extent.size > _SIZE_MAX:
            return False
        if extent.size > len(self._memory):
            self._memory = bytearray(extent.size)
        self.view = memoryview(self._memory)[: extent.size]
        try:
            self._packs.read_into(extent.pack, extent.start, self.view)
        except (StoreError, OSError):
            return False
        return blake3(self.view).digest() == extent.sum


def extents_end(conn: sqlite3.Connection, pack: int, before: int = MAX_OFFSET) -> int:
    """Where the last of the extents ends that start before that in a pack; 0 if there is none."""
    if not _there(conn):
        return 0
    (end,) = conn.execute(_END, (pack, before)).fetchone()
    return end or 0


def places(conn: sqlite3.Connection, pack: int) -> Iterator[tuple[int, int]]:
    """Start and end of all extents in a pack, in order; for who gives back what is not used."""
    if _there(conn):
        yield from conn.execute(_PLACES, (pack,))


def packs_of_dead(conn: sqlite3.Connection, before: int) -> set[int]:
    """Packs with extents of directories that died in an epoch before that one."""
    return {pack for (pack,) in conn.execute(_OF_DEAD, (before,))} if _there(conn) else set()


def forget(conn: sqlite3.Connection, packs: Iterable[int]) -> None:
    """Extents of trees that have some in these packs: blobs leave them, which would keep their
    places."""
    if _there(conn):
        conn.executemany(_FORGET, [(pack,) for pack in packs])


def read_extents(blobs: LocalBlobs, extents: Iterable[Extent]) -> Iterator[bytes]:
    """Their bytes, in pieces of up to 256 KiB, up to the first that is not what it was.

    Contents of large blobs are not verified, as they are not elsewhere. Raises what reading those
    raises.
    """
    buffer = _Buffer(blobs)
    for one in extents:
        if one.pack is None:
            yield from _contents(blobs, B3Digest(one.sum), one.size)
        elif buffer.reads(one):
            for first in range(0, one.size, _PIECE):
                yield bytes(buffer.view[first : first + _PIECE])
        else:
            return


def _contents(blobs: LocalBlobs, digest: B3Digest, size: int) -> Iterator[bytes]:
    with require_blob(blobs, digest) as reader:
        left = size
        while left and (data := reader.read(min(left, _PIECE))):
            left -= len(data)
            yield data
        if left or reader.read(1):
            raise StoreCorrupt(f"blob {digest} does not have {size} bytes", hint=_REPAIR)


def _select(
    conn: sqlite3.Connection, statement: str, parameters: tuple[object, ...]
) -> list[Extent]:
    if not _there(conn):
        return []
    return [
        Extent(pack, start or 0, *rest)
        for pack, start, *rest in conn.execute(statement, parameters)
    ]


def _there(conn: sqlite3.Connection) -> bool:
    statement = "select 1 from sqlite_schema where name = 'extent'"
    return conn.execute(statement).fetchone() is not None
