"""Blobs and directories that a binary cache has by their digests, as services to copy from.

What comes is hostile: bounded, and held against its digest. A tree is asked for level by level,
many directories at once. Out of scope: which nodes are believed (`trust.py`), and sizes of blobs,
which those who read them know.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple, cast

from eka_runtime.cache.castore_out import name_of
from eka_runtime.cache.files import Files
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.directories import decode_verified
from eka_runtime.castore.node import Directory
from eka_runtime.castore.tree_order import children, downward
from eka_runtime.castore.verified import VerifiedReader
from eka_runtime.errors import StoreCorrupt
from eka_runtime.store.copying import threads
from eka_runtime.store.pathinfo import PathInfo

DIRECTORY_MAX = 16 << 20
"""Bytes of one encoded directory, of some 200 000 entries."""
_JOBS = 16
# A hostile tree may name millions, each of which costs more to wait for than to know.
_AT_ONCE = 1024
_PIECE = 1 << 18
# Every second package has empty files, for which nobody has to be asked.
_EMPTY = B3Digest.of(b"")


class CacheBlobs:
    """A BlobService."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def has(self, digest: B3Digest) -> bool:
        return digest == _EMPTY or self._files.has(name_of("blob", digest))

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        """Whoever reads to the end has seen the digest verified. Not seekable.

        Raises StoreCorrupt and ServiceError, also in the middle of reading.
        """
        if digest == _EMPTY:
            return io.BytesIO()
        body = self._files.open(name_of("blob", digest))
        if body is None:
            return None
        reader = VerifiedReader(digest, self._files.name, lambda: body.read(_PIECE), body.close)
        return cast(BinaryIO, reader)


class CacheDirectories:
    """A DirectoryTrees."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def get(self, digest: B3Digest) -> Directory | None:
        data = self._files.read(name_of("directory", digest), DIRECTORY_MAX)
        return None if data is None else decode_verified(digest, data)

    def get_tree(self, digest: B3Digest) -> Iterator[Directory] | None:
        top = self.get(digest)
        return None if top is None else downward(digest, self._levels(top))

    def _levels(self, top: Directory) -> Iterator[Directory]:
        seen = {top.digest}
        level = iter((top,))
        with threads(_JOBS) as pool:
            while True:
                names: list[B3Digest] = []
                for directory in level:
                    yield directory
                    new = dict.fromkeys(child.digest for child in children(directory))
                    names += [digest for digest in new if digest not in seen]
                    seen |= new.keys()
                if not names:
                    return
                level = self._all(pool, names)

    def _all(self, pool: ThreadPoolExecutor, names: list[B3Digest]) -> Iterator[Directory]:
        for start in range(0, len(names), _AT_ONCE):
            yield from pool.map(self._required, names[start : start + _AT_ONCE])

    def _required(self, digest: B3Digest) -> Directory:
        found = self.get(digest)
        if found is None:
            raise StoreCorrupt(f"{self._files.name} has no directory {digest}")
        return found


class _NoPaths:
    """A KnownPaths: of paths, narinfos tell."""

    def by_hash(self, digits: str) -> PathInfo | None:
        return None


class CacheSource(NamedTuple):
    """A Source of contents only."""

    name: str
    blobs: CacheBlobs
    directories: CacheDirectories
    paths: _NoPaths

    @classmethod
    def of(cls, files: Files) -> CacheSource:
        """The files stay their owner's to close."""
        return cls(files.name, CacheBlobs(files), CacheDirectories(files), _NoPaths())
