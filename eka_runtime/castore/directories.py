"""Directories in the store's database, each under the digest of its encoding."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from eka_runtime.castore.database import Database
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, DirectoryNode, Node
from eka_runtime.castore.services import DirectoryService, require_directory
from eka_runtime.errors import CastoreError, StoreCorrupt


class LocalDirectories:
    """A DirectoryService over one database. Writing is the business of `batch.py`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def has(self, digest: B3Digest) -> bool:
        row = self._database.connection.execute(
            "select 1 from directory where digest = ?", (digest,)
        ).fetchone()
        return row is not None

    def is_alive(self, digest: B3Digest) -> bool:
        """Whether it is there, and not about to be removed."""
        row = self._database.connection.execute(
            "select 1 from directory where digest = ? and dead is null", (digest,)
        ).fetchone()
        return row is not None

    def get(self, digest: B3Digest) -> Directory | None:
        """Verified: StoreCorrupt when the row is not what its digest says."""
        row = self._database.connection.execute(
            "select data from directory where digest = ?", (digest,)
        ).fetchone()
        return decode_verified(digest, row[0]) if row else None

    def digests(self) -> Iterator[B3Digest]:
        """All of them, in order."""
        for (digest,) in self._database.connection.execute(
            "select digest from directory order by digest"
        ):
            yield B3Digest(digest)

    def get_tree(self, digest: B3Digest) -> Iterator[Directory] | None:
        """As `DirectoryTrees` has it."""
        return tree_of(self, digest)


def tree_of(directories: DirectoryService, digest: B3Digest) -> Iterator[Directory] | None:
    """Breadth-first from the root, each digest once; None when the root is not there."""
    root = directories.get(digest)
    return _below(directories, root) if root else None


def _below(directories: DirectoryService, root: Directory) -> Iterator[Directory]:
    seen, pending = {root.digest}, deque([root])
    while pending:
        directory = pending.popleft()
        yield directory
        for _, child in directory.entries:
            if isinstance(child, DirectoryNode) and child.digest not in seen:
                seen.add(child.digest)
                pending.append(require_directory(directories, child.digest))


def decode_verified(digest: B3Digest, data: bytes) -> Directory:
    """Raises StoreCorrupt when `data` is not the encoding with this digest."""
    actual = B3Digest.of(data)
    if actual != digest:
        raise StoreCorrupt(f"directory {digest} has contents with digest {actual}")
    try:
        return Directory.decode(data)
    except CastoreError as error:
        raise StoreCorrupt(f"directory {digest}: {error}") from error


def walk(node: Node, directories: DirectoryService) -> Iterator[tuple[DirectoryNode, Directory]]:
    """Every directory below `node` once, parents first; StoreCorrupt when one is missing.

    Sizes are checked on the way: a parent states the size of each child.
    """
    pending = [node] if isinstance(node, DirectoryNode) else []
    # By node, not by digest: the same directory under another size is an error to be met.
    seen = set(pending)
    while pending:
        current = pending.pop()
        directory = require_directory(directories, current.digest)
        if directory.size != current.size:
            raise StoreCorrupt(
                f"directory {current.digest} has size {directory.size}, not {current.size}"
            )
        yield current, directory
        for _, child in directory.entries:
            if isinstance(child, DirectoryNode) and child not in seen:
                seen.add(child)
                pending.append(child)
