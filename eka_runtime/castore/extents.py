"""Extents: where in packs the NAR of a directory lies already, piece by piece.

A tree whose contents are new is put into packs together with what its NAR has around them, so that
its NAR is written without looking at directories and blobs, and that contents are verified a
mebibyte at a time. Nothing depends on extents: whatever is not found as it was written, or not
there at all, is put together from directories and blobs, as the NARs of all other trees are.

    extent  node    the directory at the root, whose row takes these along when it goes
            nth     in the order of the NAR
            pack, start, size   where it lies
            sum     BLAKE3 of its bytes
            rows    BLAKE3 of what rows say of the blobs that begin in it: see `ROWS`
            cuts    blobs with files of their own, whose contents are not there: where they belong,
                    in bytes from its beginning (u32), their size (u64, little endian), their digest

The table is made when the first one comes; eka that does not know it opens the store as well, and
what it does to packs makes extents invalid at worst.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.services import blob_pieces
from eka_runtime.errors import StoreError

if TYPE_CHECKING:
    from eka_runtime.castore.blobs import LocalBlobs

_CREATE = (
    "create table if not exists extent ("
    " node blob not null references directory (digest) on delete cascade,"
    " nth integer not null, pack integer not null, start integer not null,"
    " size integer not null, sum blob not null, rows blob not null, cuts blob not null,"
    " primary key (node, nth)) strict, without rowid",
    "create index if not exists extent_pack on extent (pack, start)",
)
MAX_OFFSET = (1 << 63) - 1

_INSERT = "insert into extent values (?, ?, ?, ?, ?, ?, ?, ?)"
_OF = "select pack, start, size, sum, rows, cuts from extent where node = ? order by nth"
_BETWEEN = """
    select pack, start, size, sum, rows, cuts from extent
    where pack = ? and start >= ? and start < ? order by start
"""
_END = "select max(start + size) from extent where pack = ? and start < ?"
_PLACES = "select start, start + size from extent where pack = ? order by start"
_OF_DEAD = """
    select distinct pack from extent
    where node in (select digest from directory where dead < ?)
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
# Written ones have a mebibyte and a little; more is not read at once, whatever a row says.
_SIZE_MAX = 1 << 23
_CUT = Struct("<IQ32s")


class Cut(NamedTuple):
    """`at` counts from the beginning of the extent."""

    at: int
    size: int
    digest: bytes


class Extent(NamedTuple):
    """What lies in one piece; of the NAR, what is cut out is a part as well."""

    pack: int
    start: int
    size: int
    sum: bytes
    rows: bytes
    cuts: bytes

    @property
    def nar_size(self) -> int:
        return self.size + sum(cut.size for cut in cuts_of(self))


def encoded(cuts: Iterable[Cut]) -> bytes:
    return b"".join(_CUT.pack(*cut) for cut in cuts)


def cuts_of(extent: Extent) -> list[Cut]:
    """None of a row that is damaged, whose size is not that of the NAR then."""
    if len(extent.cuts) % _CUT.size:
        return []
    return [Cut(*fields) for fields in _CUT.iter_unpack(extent.cuts)]


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
    conn.executemany(_INSERT, [(node, nth, *one) for nth, one in enumerate(extents)])


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
        if extent.size > _SIZE_MAX:
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
        if not buffer.reads(one):
            return
        position = 0
        for at, size, digest in cuts_of(one):
            yield from _pieces(buffer.view[position:at])
            yield from blob_pieces(blobs, B3Digest(digest), size)
            position = at
        yield from _pieces(buffer.view[position:])


def _pieces(view: memoryview) -> Iterator[bytes]:
    for first in range(0, len(view), _PIECE):
        yield bytes(view[first : first + _PIECE])


def _select(
    conn: sqlite3.Connection, statement: str, parameters: tuple[object, ...]
) -> list[Extent]:
    if not _there(conn):
        return []
    return [Extent(*row) for row in conn.execute(statement, parameters)]


def _there(conn: sqlite3.Connection) -> bool:
    statement = "select 1 from sqlite_schema where name = 'extent'"
    return conn.execute(statement).fetchone() is not None
