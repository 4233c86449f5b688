"""What caches have answered, kept on disk so that it need not be asked again soon.

One SQLite file below the cache directory: for each cache and each hash part the text of the
narinfo, or that there was none, and when. Texts are parsed and their signatures checked again when
they are used, so nothing depends on the file but time. It is a cache: when it is damaged, or of
another version, it is begun anew; when it cannot be written, everything works without it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_VERSION = 1
_SCHEMA = """
    create table answer (
        cache text not null, hash text not null, text blob, at integer not null,
        primary key (cache, hash)
    ) strict, without rowid
"""
_ENTRIES_MAX = 200_000
_FUTURE = 3600


class Lifetimes(NamedTuple):
    """Seconds for which answers are believed; those of Nix."""

    found: int = 30 * 86_400
    absent: int = 3600


class Answer(NamedTuple):
    """`text` is None where the cache had none."""

    cache: str
    hash: str
    text: bytes | None


class Answers:
    """From one thread."""

    def __init__(self, file: Path | None, lifetimes: Lifetimes | None = None) -> None:
        self._lifetimes = lifetimes or Lifetimes()
        self._connection = _open(file) if file else None

    def get(self, cache: str, digits: str) -> Answer | None:
        """None when it has to be asked."""
        row = None
        if self._connection is not None:
            with suppress(sqlite3.DatabaseError):
                row = self._connection.execute(
                    "select text, at from answer where cache = ? and hash = ?", (cache, digits)
                ).fetchone()
        if row is None:
            return None
        text, at = row
        age = time.time() - at
        lifetime = self._lifetimes.absent if text is None else self._lifetimes.found
        return Answer(cache, digits, text) if -_FUTURE < age < lifetime else None

    def put(self, answers: Iterable[Answer]) -> None:
        if self._connection is None:
            return
        rows = [(*answer, int(time.time())) for answer in answers]
        with suppress(sqlite3.DatabaseError), self._connection:
            self._connection.executemany("insert or replace into answer values (?, ?, ?, ?)", rows)

    def forget(self, cache: str, digits: str) -> None:
        if self._connection is not None:
            with suppress(sqlite3.DatabaseError), self._connection:
                self._connection.execute(
                    "delete from answer where cache = ? and hash = ?", (cache, digits)
                )

    def forget_all(self, cache: str) -> None:
        if self._connection is not None:
            with suppress(sqlite3.DatabaseError), self._connection:
                self._connection.execute("delete from answer where cache = ?", (cache,))

    def close(self) -> None:
        """Also the time to throw out what is too old, or too much."""
        if self._connection is None:
            return
        with suppress(sqlite3.DatabaseError), self._connection:
            (count,) = self._connection.execute("select count(*) from answer").fetchone()
            if count > _ENTRIES_MAX:
                self._connection.execute(
                    "delete from answer where at <= (select at from answer order by at desc"
                    " limit 1 offset ?)",
                    (_ENTRIES_MAX // 2,),
                )
        self._connection.close()
        self._connection = None


def _open(file: Path) -> sqlite3.Connection | None:
    for _ in range(2):
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = sqlite3.connect(file, timeout=5)
        except (OSError, sqlite3.DatabaseError):
            return None
        try:
            return _prepared(connection)
        except sqlite3.OperationalError:
            connection.close()
            return None
        except sqlite3.DatabaseError:
            connection.close()
            with suppress(OSError):
                file.unlink()
    return None


def _prepared(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = off")
    with connection:
        connection.execute("begin immediate")
        (version,) = connection.execute("pragma user_version").fetchone()
        if version != _VERSION:
            connection.execute("drop table if exists answer")
            connection.execute(_SCHEMA)
            connection.execute(f"pragma user_version = {_VERSION}")
    return connection
