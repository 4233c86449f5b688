"""Blobs as plain files, so that the kernel can map, link and overlay them.

    BLOBS/xx/yyyyyyyyyyyyyyyyyyy     contents; mode 0444, or 0555 if first added executable; mtime 1

A name is the nixbase32 of the first 13 bytes of the digest: with its slashes it has 23 bytes, and
an overlay redirect of up to 24 keeps an ext4 inode in one piece. Two digests may share those 13
bytes. They never share a file: the row (digest -> name) decides what a file is, and the second
blob takes the next of the names that `names()` yields. A file without a row is a leftover of a
crash, or in the making by another process; it counts for nothing until its contents were compared.
Out of scope: writing (`batch.py`), deleting.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from blake3 import blake3

from eka_runtime.castore.database import Database
from eka_runtime.castore.digest import B3Digest
from eka_runtime.errors import StoreAccessError, StoreCorrupt
from eka_runtime.nix import base32

NAME_SIZE = 13
SHARD_LENGTH = 2
READ_SIZE = 1 << 18

_REPAIR = "add the same contents again, or run `eka store verify`"
_HASH_SIZE = 1 << 20


class BlobRow(NamedTuple):
    """`name` is relative to the blob directory; `size` in bytes."""

    digest: B3Digest
    name: str
    size: int


class LocalBlobs:
    """A BlobService over one blob directory and the rows of one database.

    `name_size` is the number of digest bytes in a name; anything but the default is for tests
    that need two blobs of one name.
    """

    def __init__(self, directory: Path, database: Database, *, name_size: int = NAME_SIZE) -> None:
        self.directory = directory
        self._database = database
        self._name_size = name_size

    def names(self, digest: B3Digest) -> Iterator[str]:
        """The names a blob may have, in the order in which they are tried."""
        yield self.name(digest)
        for counter in range(1, 256):
            yield self.name(blake3(digest + bytes([counter])).digest())

    def name(self, digest: bytes) -> str:
        """The first of them."""
        text = base32.encode(digest[: self._name_size])
        return f"{text[:SHARD_LENGTH]}/{text[SHARD_LENGTH:]}"

    def row(self, digest: B3Digest) -> BlobRow | None:
        found = self._database.connection.execute(
            "select name, size from blob where digest = ?", (digest,)
        ).fetchone()
        return BlobRow(digest, *found) if found else None

    def of_size(self, size: int) -> list[BlobRow]:
        """A few of those with exactly this many bytes; none below 1 MiB, which have no index."""
        rows = self._database.connection.execute(
            "select digest, name from blob where size = ? and size >= 1048576 limit 8", (size,)
        )
        return [BlobRow(B3Digest(digest), name, size) for digest, name in rows]

    def rows(self) -> Iterator[BlobRow]:
        """All of them, by digest."""
        rows = self._database.connection.execute("select * from blob order by digest")
        for digest, name, size in rows:
            yield BlobRow(B3Digest(digest), name, size)

    def has(self, digest: B3Digest) -> bool:
        return self.row(digest) is not None

    def path(self, digest: B3Digest) -> Path | None:
        """The file; whoever changes it, or its mode, corrupts the store."""
        row = self.row(digest)
        return self.directory / row.name if row else None

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        """Raises StoreCorrupt when the file of a known blob is missing."""
        row = self.row(digest)
        return self.open_row(row) if row else None

    def open_row(self, row: BlobRow) -> BinaryIO:
        path = f"{os.fspath(self.directory)}/{row.name}"
        try:
            # Unbuffered: readers ask for much, and a buffer would cost more than a small blob.
            return open(path, "rb", buffering=0)
        except FileNotFoundError:
            raise StoreCorrupt(f"blob {row.digest}: {path} is missing", hint=_REPAIR) from None
        except OSError as error:
            raise StoreAccessError(f"cannot read {path}: {error.strerror}") from error

    def verify(self, digest: B3Digest) -> None:
        """Reads all of it; StoreCorrupt when it is missing, or is not what its digest says."""
        row = self.row(digest)
        if row is None:
            raise StoreCorrupt(f"blob {digest} is missing", hint=_REPAIR)
        self.verify_row(row)

    def verify_row(self, row: BlobRow) -> None:
        """As `verify`, for those who iterate over `rows()`."""
        with self.open_row(row) as reader:
            actual, size = digest_of(reader)
        if (actual, size) != (row.digest, row.size):
            raise StoreCorrupt(
                f"blob {row.digest}: {self.directory / row.name} has {size} bytes"
                f" with digest {actual}, not {row.size}",
                hint=_REPAIR,
            )


def digest_of(reader: BinaryIO) -> tuple[B3Digest, int]:
    """Digest and size of what is left to read."""
    hasher, size = blake3(), 0
    buffer = memoryview(bytearray(_HASH_SIZE))
    while count := reader.readinto(buffer):  # type: ignore[attr-defined]
        hasher.update(buffer[:count])
        size += count
    return B3Digest(hasher.digest()), size
