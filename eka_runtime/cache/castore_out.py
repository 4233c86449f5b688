"""Single blobs and directories of a store on their way out, by their BLAKE3 digests.

Whoever has a digest may read what it names, as by the NAR of a castore node. Nothing damaged goes
out whole: contents are hashed as they go, and the last piece waits for the hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from eka_runtime.castore.digest import B3Digest
from eka_runtime.errors import StoreCorrupt

if TYPE_CHECKING:
    from eka_runtime.castore.blobs import BlobRow
    from eka_runtime.store.store import Store

PATTERN = "castore/(blob|directory)/([0-9a-f]{64})"
_PIECE = 1 << 18


class Contents(NamedTuple):
    """Nothing is opened before the first piece is taken."""

    size: int
    pieces: Iterator[bytes]


def name_of(kind: str, digest: B3Digest) -> str:
    """The name of a blob or directory in a cache."""
    return f"castore/{kind}/{digest.hex()}"


def contents(store: Store, kind: str, digest: B3Digest) -> Contents | None:
    """Raises StoreCorrupt for a directory that is damaged; for a blob, its pieces do."""
    if kind == "directory":
        directory = store.directories.get(digest)
        if directory is None:
            return None
        data = directory.encode()
        return Contents(len(data), iter((data,)))
    row = store.blobs.row(digest)
    return None if row is None else Contents(row.size, _verified(store, row))


def _verified(store: Store, row: BlobRow) -> Iterator[bytes]:
    """In bounded memory; the last piece only when all was right."""
    hasher, size, last = blake3(), 0, b""
    with store.blobs.open_row(row) as reader:
        while piece := reader.read(_PIECE):
            hasher.update(piece)
            size += len(piece)
            if last:
                yield last
            last = piece
    if (hasher.digest(), size) != (row.digest, row.size):
        raise StoreCorrupt(
            f"blob {row.digest} has changed since it was added",
            hint="run `eka store verify --deep --repair`",
        )
    if last:
        yield last
