"""Path infos: what the store knows of each valid path, in the store's database.

A path is valid when its row is committed. The root node is kept as a castore `Entry` without a
name, hashes and sizes as Nix counts them. Constraint: references are rows, so a path can only be
inserted when everything it refers to is valid (or itself). Out of scope: whether the node's blobs
exist (`verify.py`), which the order of writing guarantees (`layout.py`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

from eka_runtime.castore.database import Database
from eka_runtime.castore.node import Node, decode_entry, encode_entry
from eka_runtime.errors import FormatError, HashMismatch, StoreCorrupt, StoreError
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.path import StorePath

SCHEMA = (
    """
    CREATE TABLE path (
        id INTEGER PRIMARY KEY,
        hash TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        node BLOB NOT NULL,
        nar_hash BLOB NOT NULL CHECK (length(nar_hash) = 32),
        nar_size INTEGER NOT NULL CHECK (nar_size > 0),
        deriver TEXT,
        ca TEXT,
        registered INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE reference (
        referrer INTEGER NOT NULL REFERENCES path (id) ON DELETE CASCADE,
        reference INTEGER NOT NULL REFERENCES path (id),
        PRIMARY KEY (referrer, reference)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX reference_reverse ON reference (reference, referrer)",
    """
    CREATE TABLE signature (
        path INTEGER NOT NULL REFERENCES path (id) ON DELETE CASCADE,
        signature TEXT NOT NULL,
        PRIMARY KEY (path, signature)
    ) STRICT, WITHOUT ROWID
    """,
)

# What `decode_row` takes. One statement: three per path would be felt on closures of hundreds.
SELECT = """
    SELECT path.hash, path.name, node, nar_hash, nar_size, deriver, ca, registered,
        (SELECT group_concat(target.hash || '-' || target.name, ' ')
            FROM reference JOIN path AS target ON target.id = reference.reference
            WHERE reference.referrer = path.id),
        (SELECT group_concat(signature, char(10)) FROM signature WHERE signature.path = path.id)
    FROM path
"""

_Row = tuple[str, str, bytes, bytes, int, str | None, str | None, int, str | None, str | None]


class PathInfo(NamedTuple):
    """`references` and `signatures` are sorted; `nar_hash` is a SHA-256, `registered` Unix time.

    A path may refer to itself.
    """

    path: StorePath
    node: Node
    nar_hash: bytes
    nar_size: int
    references: tuple[StorePath, ...] = ()
    deriver: StorePath | None = None
    signatures: tuple[str, ...] = ()
    ca: str | None = None
    registered: int = 0


class PathInfos:
    """The path infos of one database. Methods without `conn` see the last committed state."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, path: StorePath) -> PathInfo | None:
        """Raises StoreCorrupt when the row cannot be understood."""
        info = self.by_hash(path.hash)
        # The hash alone is unique, but a wrong name is a path that does not exist.
        return info if info and info.path == path else None

    def by_hash(self, digits: str) -> PathInfo | None:
        row = self._execute(SELECT + "WHERE path.hash = ?", (digits,)).fetchone()
        return decode_row(row) if row else None

    def all(self) -> Iterator[PathInfo]:
        """Ordered by path."""
        return map(decode_row, self._rows(SELECT + "ORDER BY path.hash"))

    def count(self) -> int:
        (count,) = self._execute("SELECT count(*) FROM path").fetchone()
        return int(count)

    def referrers(self, path: StorePath) -> list[StorePath]:
        """Those that refer to `path` directly, sorted; itself among them if it does."""
        rows = self._rows(
            """
            SELECT referrer.hash, referrer.name
            FROM path JOIN reference ON reference.reference = path.id
                JOIN path AS referrer ON referrer.id = reference.referrer
            WHERE path.hash = ? AND path.name = ? ORDER BY referrer.hash
            """,
            path,
        )
        return [StorePath(*row) for row in rows]

    def insert(self, conn: sqlite3.Connection, info: PathInfo) -> bool:
        """Inside the caller's transaction. False when the path was valid already.

        Raises HashMismatch when it was valid with other contents, StoreError when a reference is
        not valid; nothing was written then.
        """
        row = conn.execute("SELECT name, nar_hash FROM path WHERE hash = ?", (info.path.hash,))
        if existing := row.fetchone():
            _check_same(info, *existing)
            return False
        others = [_valid_id(conn, info, path) for path in set(info.references) - {info.path}]
        cursor = conn.execute(
            "INSERT INTO path (hash, name, node, nar_hash, nar_size, deriver, ca, registered)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                info.path.hash,
                info.path.name,
                encode_entry(info.node),
                info.nar_hash,
                info.nar_size,
                info.deriver and info.deriver.base,
                info.ca,
                info.registered,
            ),
        )
        new = cursor.lastrowid
        references = [*others, new] if info.path in info.references else others
        conn.executemany("INSERT INTO reference VALUES (?, ?)", [(new, id) for id in references])
        signatures = [(new, signature) for signature in set(info.signatures)]
        conn.executemany("INSERT INTO signature VALUES (?, ?)", signatures)
        return True

    def _rows(self, statement: str, parameters: Iterable[object] = ()) -> Iterator[Any]:
        return read_rows(self._database, statement, parameters)

    def _execute(self, statement: str, parameters: Iterable[object] = ()) -> sqlite3.Cursor:
        return self._database.connection.execute(statement, tuple(parameters))


def read_rows(
    database: Database, statement: str, parameters: Iterable[object] = ()
) -> Generator[Any, None, None]:
    """Rows of a query; StoreCorrupt for a page that turns out to be damaged on the way."""
    try:
        # Not `yield from`, which would close the cursor of a listing that is left in the middle,
        # perhaps after the database.
        for row in database.connection.execute(statement, tuple(parameters)):  # noqa: UP028
            yield row
    except sqlite3.DatabaseError as error:
        raise StoreCorrupt(
            f"{database.file}: {error}", hint="run `eka store verify` for all that is wrong"
        ) from error


def _check_same(info: PathInfo, name: str, nar_hash: bytes) -> None:
    if name != info.path.name:
        raise HashMismatch(
            f"`{info.path}` cannot be added: its hash belongs to the name `{name}` in this store"
        )
    if nar_hash != info.nar_hash:
        ours, other = NixHash("sha256", nar_hash), NixHash("sha256", info.nar_hash)
        raise HashMismatch(
            f"`{info.path}` is in the store with NAR hash {ours.sri()}, not {other.sri()}",
            hint="find out which contents are right; the store keeps those it had",
        )


def _valid_id(conn: sqlite3.Connection, info: PathInfo, reference: StorePath) -> int:
    found = conn.execute("SELECT id FROM path WHERE hash = ? AND name = ?", reference).fetchone()
    if not found:
        raise StoreError(
            f"`{info.path}` refers to `{reference}`, which is not in the store",
            hint="import the whole closure (`nix-store --export $(nix-store -qR PATH)`)",
        )
    return int(found[0])


def decode_row(row: _Row) -> PathInfo:
    """Raises StoreCorrupt that names the path and what is wrong."""
    digits, name, node, nar_hash, nar_size, deriver, ca, registered, references, signatures = row
    try:
        _, decoded = decode_entry(node)
        return PathInfo(
            StorePath.from_base(f"{digits}-{name}"),
            decoded,
            nar_hash,
            nar_size,
            tuple(sorted(map(StorePath.from_base, references.split()))) if references else (),
            StorePath.from_base(deriver) if deriver else None,
            tuple(sorted(signatures.split("\n"))) if signatures else (),
            ca,
            registered,
        )
    except (FormatError, TypeError, AttributeError) as error:
        raise StoreCorrupt(
            f"the path info of `{digits}-{name}` is damaged: {error}",
            hint="run `eka store verify` for all that is wrong",
        ) from error
