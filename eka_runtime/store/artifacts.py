"""Annotations of paths: which artifacts, an atom's version in a configuration, they are outputs of.

What somebody here has seen an evaluation say, not what a path is: it is neither copied nor signed.
The table is made when the first one comes, so eka that does not know it opens the store as before;
a row goes with its path, whoever deletes that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from eka_runtime.castore.database import Database
from eka_runtime.nix.path import StorePath

_CREATE = """
    CREATE TABLE IF NOT EXISTS artifact (
        path INTEGER NOT NULL REFERENCES path (id) ON DELETE CASCADE,
        id TEXT NOT NULL,
        atom TEXT NOT NULL,
        label TEXT NOT NULL,
        version TEXT NOT NULL,
        config TEXT NOT NULL,
        PRIMARY KEY (path, id)
    ) STRICT, WITHOUT ROWID
"""
_PATH = "SELECT id FROM path WHERE hash = ? AND name = ?"


class Artifact(NamedTuple):
    """`id` is BLAKE3 of the other three, but for the label: spec/config.md."""

    id: str
    atom: str
    label: str
    version: str
    config: str


class Artifacts(NamedTuple):
    """Those of one store's database."""

    database: Database

    def of(self, path: StorePath) -> list[Artifact]:
        """In the order of their ids; none for a path that is not valid."""
        try:
            rows = self.database.connection.execute(
                f"SELECT id, atom, label, version, config FROM artifact WHERE path = ({_PATH})"
                " ORDER BY id",
                path,
            ).fetchall()
        except sqlite3.OperationalError:
            return []  # no table yet
        return [Artifact(*row) for row in rows]

    def add(self, artifact: Artifact, paths: Iterable[StorePath]) -> None:
        """Of paths that are valid; no write for what is known."""
        new = [path for path in paths if artifact not in self.of(path)]
        if not new:
            return
        with self.database.transaction() as conn:
            conn.execute(_CREATE)
            conn.executemany(
                # One that a collection took meanwhile has no id, and no row.
                f"INSERT OR REPLACE INTO artifact SELECT id, ?, ?, ?, ?, ? FROM ({_PATH})",
                [(*artifact, *path) for path in new],
            )
