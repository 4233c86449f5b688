"""A store as the three services of the seam: what it has is read, and what is put goes in.

Clients send contents before the path info that makes them reachable. How the store keeps them
until then: `uploads.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory
from eka_runtime.castore.services import Read
from eka_runtime.castore.tree_order import breadth_first
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.store.uploads import put_blob, put_directories, put_path_info


class StoreBlobs:
    """A WritableBlobs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def has(self, digest: B3Digest) -> bool:
        # Not what is about to go: whoever asks may mean to rely on it.
        return self._store.blobs.is_alive(digest)

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        return self._store.blobs.open_read(digest)

    def put(self, read: Read) -> B3Digest:
        return put_blob(self._store, read)


class StoreDirectories:
    """A WritableDirectories."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, digest: B3Digest) -> Directory | None:
        return self._store.directories.get(digest)

    def get_tree(self, digest: B3Digest) -> Iterator[Directory] | None:
        return breadth_first(digest, self._store.directories)

    def put_tree(self, directories: Iterable[Directory]) -> B3Digest:
        return put_directories(self._store, directories)


class StorePaths:
    """A PathInfoService; a path that is put must have all of its contents here."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def by_hash(self, digits: str) -> PathInfo | None:
        return self._store.paths.by_hash(digits)

    def put(self, info: PathInfo) -> PathInfo:
        return put_path_info(self._store, info)

    def all(self) -> Iterator[PathInfo]:
        return self._store.paths.all()


class LocalServices(NamedTuple):
    """The store stays its owner's to close."""

    blobs: StoreBlobs
    directories: StoreDirectories
    paths: StorePaths

    @classmethod
    def of(cls, store: Store) -> LocalServices:
        return cls(StoreBlobs(store), StoreDirectories(store), StorePaths(store))
