"""The one SQLite file of a store: opening, versions, threads, transactions, errors.

It holds what is known about blobs and about directories; the store adds its own tables through
`schema`. WAL mode lets readers and one writer work at once; `synchronous=FULL` makes a commit
durable when it returns, which the protocol of `batch.py` relies on. A new file is made complete
under another name and linked into place, so two processes that start at once cannot meet half a
schema. Out of scope: what the rows mean.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eka_runtime.castore.digest import DIGEST_SIZE
from eka_runtime.errors import EkaError, StoreAccessError, StoreCorrupt, StoreFormatError

APPLICATION_ID = 0x656B6131  # "eka1"
VERSION = 2

# Another process holds the write lock only while it inserts rows, never while it copies files.
_BUSY_SECONDS = 60.0

# An upper bound. With SQLite's own, 2 MiB, inserting 100 000 blobs takes nearly twice as long.
_CACHE_KIB = 32 << 10

# So many digests are looked up by one statement.
AT_ONCE = 512

_SCHEMA = (
    # A blob lies in a file of its own (`name`), or in a pack, from byte `start` on; `stored` is how
    # many bytes it takes there when it is compressed. `dead` is the epoch in which a collection
    # found no use for it, `loose` the time at which it came without a path that needs it.
    "create table blob ("
    " digest blob primary key, size integer not null, name text,"
    " pack integer, start integer, stored integer, dead integer, loose integer,"
    " check ((name is null) = (pack is not null) and (pack is null) = (start is null))"
    ") strict, without rowid",
    # Most blobs have no name: an index of all would be as large again as the table's own.
    "create unique index blob_name on blob (name) where name is not null",
    # Tells all there is to know of packed blobs, in the order in which they lie.
    "create index blob_pack on blob (pack, start, size, stored) where pack is not null",
    "create index blob_dead on blob (dead) where dead is not null",
    # Tells whether a large file may be known already before anything of it is written.
    "create index blob_large on blob (size) where size >= 1048576",
    "create table directory ("
    " digest blob primary key, data blob not null, dead integer, loose integer"
    ") strict, without rowid",
    "create index directory_dead on directory (dead) where dead is not null",
    # Where a blob lay before it was moved: readers may still be on their way there.
    "create table moved ("
    " pack integer not null, start integer not null, stored integer not null,"
    " dead integer not null,"
    " primary key (pack, start)) strict, without rowid",
    # Packs of which a part is not used any more, and was not given back yet.
    "create table untidy (pack integer primary key) strict",
    "create table epoch (number integer not null) strict",
    "insert into epoch values (1)",
)

_FULL = ("the disk is full", "free some space there and try again")
_HINTS = {
    sqlite3.SQLITE_FULL: _FULL,
    # Making the -shm file longer, which fails for no other reason in practice.
    sqlite3.SQLITE_IOERR_SHMSIZE: _FULL,
    sqlite3.SQLITE_READONLY: ("it is read-only", "use a store you can write to (`--store DIR`)"),
    sqlite3.SQLITE_CANTOPEN: ("cannot open it", "check that its directory exists and is yours"),
    sqlite3.SQLITE_PERM: ("permission denied", "use a store you can write to (`--store DIR`)"),
    sqlite3.SQLITE_BUSY: ("it is locked", "wait for the other process that is writing to it"),
    sqlite3.SQLITE_IOERR: ("the disk reports an error", "look at the system log"),
}


_NTH = "create temp table nth (i integer primary key)"
_NUMBERS = """
    with recursive number (i) as (select 0 union all select i + 1 from number where i + 1 < ?)
    insert or ignore into temp.nth select i from number
"""


def of_digests(columns: str, table: str) -> str:
    """A statement for `Database.look_up`; `i` among the columns is the place of the digest.

    All digests are bound as one value: sqlite3 takes longer to adapt one than to find its row.
    """
    return (
        f"select {columns} from temp.nth cross join {table}"
        f" where i < ?2 and digest = substr(?1, {DIGEST_SIZE} * i + 1, {DIGEST_SIZE})"
    )


class Connection(sqlite3.Connection):
    """Raises eka's errors in place of SQLite's, except those that mean a wrong statement."""

    def execute(self, *args: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*args)
        except sqlite3.DatabaseError as error:
            raise _translated(error, self) from error

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        try:
            return super().executemany(*args)
        except sqlite3.DatabaseError as error:
            raise _translated(error, self) from error


def _translated(error: sqlite3.DatabaseError, connection: Connection | str) -> Exception:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return error
    if isinstance(connection, Connection):
        # Not through our own execute: it is what has just failed.
        rows = sqlite3.Connection.execute(connection, "pragma database_list")
        where = next((row[2] for row in rows), "database")
    else:
        where = connection
    if advice := _HINTS.get(code) or _HINTS.get(code & 0xFF):
        problem, hint = advice
        return StoreAccessError(f"{where}: {problem}", hint=hint)
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorrupt(f"{where}: {error}", hint="restore it from a copy, or add it all again")
    return error


class Database:
    """Connections to one database file, one for each thread that asks.

    Raises StoreFormatError for a file of something else or of a newer eka, StoreAccessError when
    it cannot be opened or made. `readonly` never writes, and works on read-only media.
    """

    def __init__(self, file: Path, schema: Sequence[str] = (), *, readonly: bool = False) -> None:
        self.file = file
        self._readonly = readonly
        self._immutable = False
        self._local = threading.local()
        self._lock = threading.Lock()
        self._opened: list[tuple[threading.Thread, Connection]] = []
        if not readonly and not file.exists():
            self._create(schema)
        try:
            self._check_version(self.connection)
        except BaseException:
            self.close()
            raise

    @property
    def connection(self) -> Connection:
        """This thread's connection; autocommit, statements outside `transaction()` stand alone."""
        try:
            found: Connection = self._local.connection
        except AttributeError:
            found = self._local.connection = self._open()
        return found

    def finder(self, statement: str) -> Callable[[bytes], tuple[Any, ...] | None]:
        """A look-up by one value, for thousands of them: the first row, or None.

        For the calling thread only.
        """
        connection = self.connection
        cursor = connection.cursor()

        def find(key: bytes) -> tuple[Any, ...] | None:
            try:
                row: tuple[Any, ...] | None = cursor.execute(statement, (key,)).fetchone()
            except sqlite3.DatabaseError as error:
                raise _translated(error, connection) from error
            return row

        return find

    def look_up(self, statement: str, digests: Sequence[bytes]) -> list[Any]:
        """Rows of a statement made by `of_digests`, in the order of up to AT_ONCE digests."""
        connection = self.connection
        if not getattr(self._local, "numbered", False):
            connection.execute(_NUMBERS, (AT_ONCE,))
            # Whoever rolls back takes them away again.
            self._local.numbered = not connection.in_transaction
        return connection.execute(statement, (b"".join(digests), len(digests))).fetchall()

    def epoch(self) -> int:
        """The present epoch; what it is for: `epochs.py`."""
        (number,) = self.connection.execute("select number from epoch").fetchone()
        return int(number)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One write transaction of this thread: all of it is durable at the end, or none is."""
        connection = self.connection
        connection.execute("begin immediate")
        try:
            yield connection
            connection.execute("commit")
        except BaseException:
            # SQLite may have rolled back by itself, for instance when the disk was full.
            if connection.in_transaction:
                connection.execute("rollback")
            raise

    def close(self) -> None:
        """Closes the connections of all threads; none may be in use."""
        with self._lock:
            opened, self._opened = self._opened, []
        for _, connection in opened:
            connection.close()
        self._local = threading.local()

    def _open(self) -> Connection:
        try:
            connection = self._connect(self.file, self._immutable)
        except StoreAccessError:
            # Without the right to make the -shm file, WAL readers need to be told that nobody
            # writes. With a -wal file left behind that would hide committed rows.
            if not self._readonly or self._immutable or not _is_settled(self.file):
                raise
            self._immutable = True
            connection = self._connect(self.file, True)
        with self._lock:
            alive = [(thread, one) for thread, one in self._opened if thread.is_alive()]
            for thread, one in self._opened:
                if not thread.is_alive():
                    one.close()
            self._opened = [*alive, (threading.current_thread(), connection)]
        return connection

    def _connect(self, file: Path, immutable: bool = False) -> Connection:
        mode = "ro" if self._readonly else "rw"
        uri = f"file:{quote(os.fspath(file.absolute()))}?mode={mode}"
        with _opening(file):
            connection = sqlite3.connect(
                uri + "&immutable=1" * immutable,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                factory=Connection,
                uri=True,
            )
            try:
                sqlite3.Connection.execute(connection, "pragma foreign_keys = on")
                sqlite3.Connection.execute(connection, "pragma synchronous = full")
                sqlite3.Connection.execute(connection, f"pragma cache_size = -{_CACHE_KIB}")
                # The first access to the file, where errors of opening show.
                sqlite3.Connection.execute(connection, "select count(*) from sqlite_schema")
                # For `look_up`. Not there: a new table ends all statements that are at work.
                sqlite3.Connection.execute(connection, _NTH)
            except BaseException:
                connection.close()
                raise
        return connection

    def _create(self, schema: Iterable[str]) -> None:
        fresh = self.file.with_name(f"{self.file.name}.{os.urandom(8).hex()}")
        try:
            fresh.touch(mode=0o644, exist_ok=False)
            connection = self._connect(fresh)
            try:
                for statement in (
                    "begin",
                    f"pragma application_id = {APPLICATION_ID}",
                    f"pragma user_version = {VERSION}",
                    *_SCHEMA,
                    *schema,
                    "commit",
                    # Last: what is in a -wal file when this ends would not come along, and on a
                    # full disk closing leaves it there without an error.
                    "pragma journal_mode = wal",
                ):
                    connection.execute(statement)
            finally:
                connection.close()
            try:
                os.link(fresh, self.file)
            except (FileExistsError, FileNotFoundError):
                # Another process was first; a collection may even have removed our file since.
                if not self.file.exists():
                    raise
        except OSError as error:
            raise StoreAccessError(
                f"cannot make {self.file}: {error.strerror}",
                hint="check that its directory exists, is yours, and has space left",
            ) from error
        finally:
            for suffix in ("", "-journal"):
                fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)

    def _check_version(self, connection: Connection) -> None:
        (application,) = connection.execute("pragma application_id").fetchone()
        (version,) = connection.execute("pragma user_version").fetchone()
        if application != APPLICATION_ID:
            raise StoreFormatError(f"{self.file} is not the database of an eka store")
        if version != VERSION:
            raise StoreFormatError(
                f"{self.file} has version {version}, this eka knows version {VERSION}",
                hint="use the eka that made it" if version > VERSION else None,
            )


def _is_settled(file: Path) -> bool:
    wal = file.with_name(file.name + "-wal")
    return not wal.exists() or not wal.stat().st_size


@contextmanager
def _opening(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        translated = _translated(error, os.fspath(file))
        if not isinstance(translated, EkaError):
            raise
        raise translated from error
