"""What every place that holds castore content can do: the seam between formats and backends.

Contract of all methods: `None` or False means "not here", which is no error, since another service
may have it; an error means that the service could not tell. Implementations are safe to use from
several threads. Out of scope: writing, which is transactional in a store (`batch.py`).
"""

from __future__ import annotations

from typing import BinaryIO, Protocol

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory
from eka_runtime.errors import StoreCorrupt


class BlobService(Protocol):
    def has(self, digest: B3Digest) -> bool: ...

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        """The contents, not verified; the caller closes it."""


class DirectoryService(Protocol):
    def get(self, digest: B3Digest) -> Directory | None:
        """Raises StoreCorrupt rather than return a directory with another digest."""


def require_blob(blobs: BlobService, digest: B3Digest) -> BinaryIO:
    """Raises StoreCorrupt if it is missing: for those who got the digest from a valid tree."""
    reader = blobs.open_read(digest)
    if reader is None:
        raise StoreCorrupt(f"blob {digest} is missing", hint="run `eka store verify`")
    return reader


def require_directory(directories: DirectoryService, digest: B3Digest) -> Directory:
    """Raises StoreCorrupt if it is missing."""
    directory = directories.get(digest)
    if directory is None:
        raise StoreCorrupt(f"directory {digest} is missing", hint="run `eka store verify`")
    return directory
