"""Which blobs and directories store paths need: the mark phase of a collection.

The marks are temporary tables of one connection, not sets in memory: a store may hold more blobs
than a process should hold digests. Every directory is read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from sqlite3 import Connection

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.directories import decode_verified
from eka_runtime.castore.node import DirectoryNode, FileNode, Node, decode_entry

_AT_ONCE = 256


class Marks:
    """Two sets of digests, `mark_blob` and `mark_directory`, for statements to join with."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        for table in ("mark_blob", "mark_directory"):
            conn.execute(
                f"create temp table if not exists {table} (digest blob primary key) without rowid"
            )
            conn.execute(f"delete from temp.{table}")

    def add_paths(self, after: int = 0) -> int:
        """Marks all that the valid paths with a greater id need; returns the greatest id."""
        rows = self._conn.execute("select id, node from path where id > ? order by id", (after,))
        last = after
        while some := list(islice(rows, _AT_ONCE)):
            last = some[-1][0]
            self.add(decode_entry(node)[1] for _, node in some)
        return last

    def add(self, nodes: Iterable[Node]) -> None:
        """Marks nodes and everything below. Raises StoreCorrupt for a damaged directory.

        One that is missing is passed over: nothing can be kept that is not there.
        """
        pending = self._take(nodes)
        while pending:
            some, pending = pending[-_AT_ONCE:], pending[:-_AT_ONCE]
            for nodes_below in self._read(some):
                pending += self._take(nodes_below)

    def _take(self, nodes: Iterable[Node]) -> list[B3Digest]:
        """Marks nodes; returns the directories among them that were not marked before."""
        blobs, fresh = [], []
        for node in nodes:
            if isinstance(node, FileNode):
                blobs.append((node.digest,))
            elif isinstance(node, DirectoryNode) and self._is_new(node.digest):
                fresh.append(node.digest)
        self._conn.executemany("insert or ignore into mark_blob values (?)", blobs)
        return fresh

    def _is_new(self, digest: B3Digest) -> bool:
        statement = "insert or ignore into mark_directory values (?)"
        return self._conn.execute(statement, (digest,)).rowcount > 0

    def _read(self, digests: list[B3Digest]) -> Iterator[list[Node]]:
        rows = self._conn.execute(
            f"select digest, data from directory where digest in ({','.join('?' * len(digests))})",
            digests,
        ).fetchall()
        for digest, data in rows:
            yield [node for _, node in decode_verified(B3Digest(digest), data).entries]
