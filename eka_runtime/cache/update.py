"""A NAR of which most is here already, put together with what only the cache has.

The next version of a package shares most of its files with the one before. A cache that has blobs
and directories by their digests (`EkaCastore` in its narinfos, spec/cache.md) need not send those
again. Whether that pays is found out before a byte of contents is asked for: names of paths say
whether there may be a version before, and directories, of which equal ones are not asked for, how
much is new. Nothing of it is believed: the NAR that comes out is held against the hash of the
narinfo like any other, and where anything is wrong with it, the cache has the whole one as well.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from eka_runtime.cache.castore_in import CacheBlobs, CacheDirectories
from eka_runtime.cache.substituter import Found
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.nar_source import NarSource
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, Node
from eka_runtime.castore.prefetch import Prefetch
from eka_runtime.castore.services import DirectoryService
from eka_runtime.castore.trees import Tree
from eka_runtime.errors import StoreCorrupt
from eka_runtime.nix.tokens import Read
from eka_runtime.store.incoming import Lasting, files_below

if TYPE_CHECKING:
    from eka_runtime.cache.files import Files
    from eka_runtime.store.store import Store

LEAST = 1 << 17
"""Bytes of a NAR up to which it is fetched whole: journeys for its directories would cost more."""
# Of one path; many are fetched at once.
_JOBS, _MEMORY = 8, 8 << 20
# What a request costs besides the bytes that it asks for, in bytes.
_REQUEST = 1 << 12
# Names to look at, and entries of one path; what comes after them is fetched blob by blob.
_NAMES_MAX, _ENTRIES_MAX = 200_000, 1 << 20
_VERSION = re.compile(r"-[0-9].*", re.DOTALL)


class Updates:
    """What one fetch finds of its paths in the store; for several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = threading.Lock()
        self._stems: frozenset[str] | None = None

    def nar(self, found: Found) -> UpdateNar | None:
        """None where the whole NAR is the better way. Raises ServiceError and CastoreError."""
        info, cache = found
        if info.nar_size <= LEAST or not info.castore or not self._had(info.path.name):
            return None
        node = cache.trust.node(info)
        if node is None:
            return None
        directories = _directories(self._store, cache.files, node)
        # What is sent is compressed, blobs are not.
        new = self._new(node, directories, (info.file_size or info.nar_size) // 2)
        return None if new is None else UpdateNar(self._store, cache.files, node, directories, new)

    def _had(self, name: str) -> bool:
        """Whether the store has had another version of it when the fetch began."""
        with self._guard:
            if self._stems is None:
                rows = self._store.database.connection.execute(
                    "select distinct name from path limit ?", (_NAMES_MAX,)
                )
                self._stems = frozenset(stem(name) for (name,) in rows)
        return stem(name) in self._stems

    def _new(self, node: Node, directories: DirectoryService, most: int) -> list[FileNode] | None:
        """Files whose blobs are not here, in the order of the NAR; None if they cost too much."""
        known: dict[B3Digest, bool] = {}
        new: list[FileNode] = []
        for file in files_below(node, directories, _ENTRIES_MAX):
            if file.digest not in known:
                known[file.digest] = self._store.blobs.is_alive(file.digest)
                most -= 0 if known[file.digest] else file.size + _REQUEST
            if most < 0:
                return None
            if not known[file.digest]:
                new.append(file)
        return new


def stem(name: str) -> str:
    """Of the name of a path, what comes before its version."""
    return _VERSION.sub("", name)


class UpdateNar:
    """Like a `Nar`. Reading raises StoreCorrupt and ServiceError where the cache cannot give it."""

    def __init__(
        self,
        store: Store,
        files: Files,
        node: Node,
        directories: DirectoryService,
        new: list[FileNode],
    ) -> None:
        near, far = Lasting(store.blobs), CacheBlobs(files)
        self._blobs = Prefetch(near, far, jobs=_JOBS, memory=_MEMORY)
        self._blobs.expect(new)
        self.read: Read = NarSource(node, self._blobs, directories).read

    def close(self) -> None:
        self._blobs.__exit__(None, None, None)

    def abort(self) -> None:
        self.close()


class _NearFirst(CacheDirectories):
    """Directories of a cache, except those that are here."""

    def __init__(self, store: Store, files: Files) -> None:
        super().__init__(files)
        self._near = store.directories

    def get(self, digest: B3Digest) -> Directory | None:
        near = self._near.get(digest) if self._near.is_alive(digest) else None
        return near or super().get(digest)


def _directories(store: Store, files: Files, node: Node) -> DirectoryService:
    if not isinstance(node, DirectoryNode):
        return store.directories
    sent: Iterator[Directory] | None = _NearFirst(store, files).get_tree(node.digest)
    if sent is None:
        raise StoreCorrupt(f"{files.name} has no directory {node.digest}")
    return Tree.receive(node.digest, sent)
