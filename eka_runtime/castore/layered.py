"""Two services as one: near is asked first, and keeps what only far had.

Near is a cache or a copy, far the origin. Far is never written to, and nothing that does not have
its digest gets into near. Both may themselves be layered. Out of scope: deleting from near.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory
from eka_runtime.castore.services import (
    BlobService,
    DirectoryTrees,
    Read,
    WritableBlobs,
    WritableDirectories,
    require_blob,
)
from eka_runtime.castore.trees import Tree, leaves_first
from eka_runtime.errors import StoreCorrupt


class LayeredBlobs:
    """A WritableBlobs; writes go to near alone. Of far, blobs have `most` bytes at most."""

    def __init__(self, near: WritableBlobs, far: BlobService, most: int | None = None) -> None:
        self._near = near
        self._far = far
        self._most = most

    def has(self, digest: B3Digest) -> bool:
        return self._near.has(digest) or self._far.has(digest)

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        """Returns when near has all of it; StoreCorrupt when far gives other contents."""
        found = self._near.open_read(digest)
        if found is not None:
            return found
        reader = self._far.open_read(digest)
        if reader is None:
            return None
        with reader:
            kept = self._near.put(self._bounded(digest, reader.read))
        if kept != digest:
            raise StoreCorrupt(f"blob {digest}: the far service gave contents with digest {kept}")
        return require_blob(self._near, digest)

    def put(self, read: Read) -> B3Digest:
        return self._near.put(read)

    def _bounded(self, digest: B3Digest, read: Read) -> Read:
        if self._most is None:
            return read
        left = self._most

        def take(size: int) -> bytes:
            nonlocal left
            data = read(size)
            left -= len(data)
            if left < 0:
                raise StoreCorrupt(
                    f"blob {digest}: the far service gives more than {self._most} bytes"
                )
            return data

        return take


class LayeredDirectories:
    """A WritableDirectories; writes go to near alone.

    Far is asked for whole trees even where one directory is wanted: who reads a directory will
    read those below it, and a journey for each would take longer than all of them together.
    """

    def __init__(self, near: WritableDirectories, far: DirectoryTrees) -> None:
        self._near = near
        self._far = far

    def get(self, digest: B3Digest) -> Directory | None:
        found = self._near.get(digest)
        if found is not None:
            return found
        tree = self._fetch(digest)
        return tree.get(digest) if tree else None

    def get_tree(self, digest: B3Digest) -> Iterator[Directory] | None:
        found = self._near.get_tree(digest)
        if found is not None:
            return found
        tree = self._fetch(digest)
        return iter(tree) if tree else None

    def put_tree(self, directories: Iterable[Directory]) -> B3Digest:
        return self._near.put_tree(directories)

    def _fetch(self, digest: B3Digest) -> Tree | None:
        sent = self._far.get_tree(digest)
        if sent is None:
            return None
        tree = Tree.receive(digest, sent)
        self._near.put_tree(leaves_first(digest, tree))
        return tree
