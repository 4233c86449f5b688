"""Path infos: what the store knows of each valid path, in the store's database.

A path is valid when its row is committed. The root node is kept as a castore `Entry` without a
name, hashes and sizes as Nix counts them. Constraint: references are rows, so a path can only be
inserted when everything it refers to is valid (or itself). Out of scope: whether the node's blobs
exist (`verify.py`), which the order of writing guarantees (`layout.py`).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

from blake3 import blake3

from eka_runtime.castore.database import Database
from eka_runtime.castore.node import Node, decode_entry, encode_entry
from eka_runtime.errors import (
    FormatError,
    HashMismatch,
    PathNotFound,
    StoreCorrupt,
    StoreError,
)
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.path import ContentAddress, StorePath, path_for_ca

SCHEMA = (
    """
    CREATE TABLE path (
        -- Never used again, so that a collection sees what came after it began.
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        hash TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        node BLOB NOT NULL,
        nar_hash BLOB NOT NULL CHECK (length(nar_hash) = 32),
        nar_size INTEGER NOT NULL CHECK (nar_size > 0),
        deriver TEXT,
        ca TEXT,
        registered INTEGER NOT NULL,
        -- When somebody last wanted it: Unix time, and epoch.
        used INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        -- BLAKE3 of what was verified when the path was added: see `seal`.
        seal BLOB NOT NULL CHECK (length(seal) = 32)
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

_DAY = 86_400

# What `decode_row` takes. One statement: three per path would be felt on closures of hundreds.
_COLUMNS = """
    path.hash, path.name, node, nar_hash, nar_size, deriver, ca, registered,
    (SELECT group_concat(target.hash || '-' || target.name, ' ')
        FROM reference JOIN path AS target ON target.id = reference.reference
        WHERE reference.referrer = path.id),
    (SELECT group_concat(signature, char(10)) FROM signature WHERE signature.path = path.id)
"""
SELECT = f"SELECT {_COLUMNS} FROM path "
SELECT_SEALED = f"SELECT seal, {_COLUMNS} FROM path "

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

    def beginning(self, text: str, limit: int) -> list[StorePath]:
        """At most `limit` paths whose hash or name begins with `text`, ordered by path."""
        rows = self._execute(
            "SELECT hash, name FROM path WHERE substr(hash || '-' || name, 1, length(?1)) = ?1"
            " OR substr(name, 1, length(?1)) = ?1 ORDER BY hash LIMIT ?2",
            (text, limit),
        )
        return [StorePath(*row) for row in rows]

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
            self._touch(conn, [info.path])
            return False
        others = [_valid_id(conn, info, path) for path in set(info.references) - {info.path}]
        cursor = conn.execute(
            "INSERT INTO path"
            " (hash, name, node, nar_hash, nar_size, deriver, ca, registered, used, seal, epoch)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT number FROM epoch))",
            (
                info.path.hash,
                info.path.name,
                encode_entry(info.node),
                info.nar_hash,
                info.nar_size,
                info.deriver and info.deriver.base,
                info.ca,
                info.registered,
                int(time.time()),
                seal(info),
            ),
        )
        new = cursor.lastrowid
        references = [*others, new] if info.path in info.references else others
        conn.executemany("INSERT INTO reference VALUES (?, ?)", [(new, id) for id in references])
        signatures = [(new, signature) for signature in set(info.signatures)]
        conn.executemany("INSERT INTO signature VALUES (?, ?)", signatures)
        return True

    def add_signatures(self, path: StorePath, signatures: Iterable[str]) -> int:
        """Beside those that are there; returns how many are new. Raises PathNotFound."""
        with self._database.transaction() as conn:
            row = conn.execute("SELECT id FROM path WHERE hash = ? AND name = ?", path).fetchone()
            if row is None:
                raise PathNotFound(f"`{path}` is not in the store", hint="add it first")
            before = conn.total_changes
            conn.executemany(
                "INSERT OR IGNORE INTO signature VALUES (?, ?)",
                [(row[0], signature) for signature in set(signatures)],
            )
            return conn.total_changes - before

    def touch(self, paths: Iterable[StorePath]) -> None:
        """Keeps paths from being collected while this process has the store open.

        Costs a transaction only if a collection took place since they were last touched, or a day
        went by. Raises PathNotFound for one that is not valid, or not any more.
        """
        stale = [path for path in paths if self._is_stale(path)]
        if stale:
            with self._database.transaction() as conn:
                self._touch(conn, stale)
                for path in stale:
                    if not conn.execute("SELECT 1 FROM path WHERE hash = ?", path[:1]).fetchone():
                        raise PathNotFound(
                            f"`{path}` is not in the store, or was collected just now",
                            hint="add it again",
                        )

    def _is_stale(self, path: StorePath) -> bool:
        row = self._execute(
            "SELECT 1 FROM path, epoch WHERE hash = ? AND epoch = number AND used > ?",
            (path.hash, int(time.time()) - _DAY),
        )
        return row.fetchone() is None

    def _touch(self, conn: sqlite3.Connection, paths: Iterable[StorePath]) -> None:
        now = int(time.time())
        conn.executemany(
            "UPDATE path SET used = max(used, ?), epoch = (SELECT number FROM epoch)"
            " WHERE hash = ?",
            [(now, path.hash) for path in paths],
        )

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


def seal(info: PathInfo) -> bytes:
    """Ties a path to its node and NAR hash, which were compared when it was added.

    A NAR follows from its node, and what is below the node has its digests. So as long as the seal
    and the digests are right, the NAR hash is; nothing has to be rendered to verify a store.
    """
    fields = (info.path.base.encode(), encode_entry(info.node), info.nar_hash)
    hasher = blake3(b"eka path 1\0%d\0" % info.nar_size)
    for field in fields:
        hasher.update(len(field).to_bytes(8, "little") + field)
    return hasher.digest()


def wrong_ca(info: PathInfo) -> str | None:
    """What is wrong with a content address, if there is one and something is."""
    if info.ca is None:
        return None
    self_reference = info.path in info.references
    others = [path for path in info.references if path != info.path]
    try:
        address = ContentAddress.parse(info.ca)
        expected = path_for_ca(info.path.name, address, others, self_reference)
    except FormatError as error:
        return str(error)
    if expected != info.path:
        return f"its content address {info.ca} belongs to {expected}"
    stated = address.hash if address.method == "recursive" and not self_reference else None
    if stated and stated.algo == "sha256" and stated.digest != info.nar_hash:
        return f"its content address {info.ca} is not its NAR hash"
    return None
