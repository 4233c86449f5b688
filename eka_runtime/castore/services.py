"""What every place that holds castore content can do: the seam between formats and backends.

Contract of all methods: `None` or False means "not here", which is no error, since another service
may have it; an error means that the service could not tell. Implementations are safe to use from
several threads. A service that can be written to takes whole blobs and whole trees, one at a time;
a store itself is written through batches, which make many of them valid at once (`batch.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, Protocol, runtime_checkable

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory
from eka_runtime.errors import StoreCorrupt

# Larger ones would come from the kernel, and go back to it, each time.
_PIECE = 1 << 18

Read = Callable[[int], bytes]
"""`read(n)` returns 1..n bytes, b"" at the end."""


class BlobService(Protocol):
    def has(self, digest: B3Digest) -> bool: ...

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        """The contents, not verified; the caller closes it."""


class DirectoryService(Protocol):
    def get(self, digest: B3Digest) -> Directory | None:
        """Raises StoreCorrupt rather than return a directory with another digest."""


@runtime_checkable
class SmallBlobs(Protocol):
    """Has small blobs at hand, of which many at once cost little more than one."""

    def read_small(self, digests: Sequence[B3Digest]) -> Sequence[bytes | None]:
        """Contents, not verified, of those that are here and small; None in place of the others.

        Up to 512 digests.
        """


class WritableBlobs(BlobService, Protocol):
    def put(self, read: Read) -> B3Digest:
        """Takes the contents up to their end; durable and visible when it returns."""


class DirectoryTrees(DirectoryService, Protocol):
    def get_tree(self, digest: B3Digest) -> Iterator[Directory] | None:
        """A directory and all below it: root first, each digest once, verified.

        StoreCorrupt, in the middle of it, when one below is missing.
        """


class WritableDirectories(DirectoryTrees, Protocol):
    def put_tree(self, directories: Iterable[Directory]) -> B3Digest:
        """Takes a whole tree, leaves first; returns the digest of its root, the last one.

        Raises CastoreError when it is not one whole tree, and nothing is visible then.
        """


def require_blob(blobs: BlobService, digest: B3Digest) -> BinaryIO:
    """Raises StoreCorrupt if it is missing: for those who got the digest from a valid tree."""
    reader = blobs.open_read(digest)
    if reader is None:
        raise StoreCorrupt(f"blob {digest} is missing", hint="run `eka store verify`")
    return reader


def blob_pieces(blobs: BlobService, digest: B3Digest, size: int, start: int = 0) -> Iterator[bytes]:
    """The contents from byte `start` on, in pieces of up to 256 KiB, not verified.

    Raises StoreCorrupt when it is missing or, at the end, does not have `size` bytes.
    """
    with require_blob(blobs, digest) as reader:
        if start:
            reader.seek(start)
        left = size - start
        while left and (data := reader.read(min(left, _PIECE))):
            left -= len(data)
            yield data
        # The end must be seen, too: services verify the digest there.
        if left or reader.read(1):
            problem = f"blob {digest} has {'fewer' if left else 'more'} than {size} bytes"
            raise StoreCorrupt(problem, hint="run `eka store verify`")


def require_directory(directories: DirectoryService, digest: B3Digest) -> Directory:
    """Raises StoreCorrupt if it is missing."""
    directory = directories.get(digest)
    if directory is None:
        raise StoreCorrupt(f"directory {digest} is missing", hint="run `eka store verify`")
    return directory
