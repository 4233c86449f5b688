"""Realisations: which path a content-addressed output of a derivation turned out to be.

The key is `sha256:<hash modulo>!<output>`, so that derivations which do the same share them. A
realisation counts as long as its path is valid. The table is made when the first one comes.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from eka_runtime.castore.database import Database
from eka_runtime.nix.path import StorePath

_CREATE = """
    CREATE TABLE IF NOT EXISTS realisation (
        id TEXT PRIMARY KEY,
        path TEXT NOT NULL
    ) STRICT, WITHOUT ROWID
"""


class Realisations(NamedTuple):
    """Those of one store's database."""

    database: Database

    def get(self, key: str) -> StorePath | None:
        """None also when the path is not valid any more."""
        try:
            row = self.database.connection.execute(
                "SELECT path FROM realisation WHERE id = ?", (key,)
            ).fetchone()
        except sqlite3.OperationalError:
            return None  # no table yet
        if row is None:
            return None
        path = StorePath.from_base(row[0])
        valid = self.database.connection.execute(
            "SELECT 1 FROM path WHERE hash = ? AND name = ?", path
        ).fetchone()
        return path if valid else None

    def put(self, found: dict[str, StorePath]) -> None:
        """Later ones replace earlier ones."""
        with self.database.transaction() as conn:
            conn.execute(_CREATE)
            conn.executemany(
                "INSERT OR REPLACE INTO realisation VALUES (?, ?)",
                [(key, path.base) for key, path in found.items()],
            )
