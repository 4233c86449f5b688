"""Getting lost contents back: from checkouts, which hold second copies, or from another place.

Constraint: nothing is believed but digests. What is got back is written as new contents are, and
the rows lead to it from then on; whatever nobody has stays as damaged as it was. Checkouts that
show damaged contents are moved away, and made again when somebody needs them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.directories import walk
from eka_runtime.castore.ingest import ingest_tree
from eka_runtime.castore.node import DirectoryNode, FileNode
from eka_runtime.errors import EkaError, FormatError, HashMismatch, ServiceError, StoreCorrupt
from eka_runtime.store.closure_views import drop_closure_views
from eka_runtime.store.sweep import retire_checkout
from eka_runtime.store.uploads import take

if TYPE_CHECKING:
    from eka_runtime.store.copying import Source
    from eka_runtime.store.pathinfo import PathInfo
    from eka_runtime.store.store import Store
    from eka_runtime.store.verify import Lost

_PLACES_FAULT = (ServiceError, FormatError, HashMismatch)


class Nars(Protocol):
    """A place that has paths as a whole."""

    def take(self, batch: Batch, info: PathInfo) -> None:
        """Takes in the contents of a path, if they are there. Raises EkaErrors."""


def repair(
    store: Store, lost: Lost, places: Iterable[Source] = (), nars: Iterable[Nars] = ()
) -> int:
    """Returns how many blobs and directories were got back; they are durable then.

    Raises what writing to the store raises; a place that cannot be reached is passed over.
    """
    missing = _Missing(store, set(lost.blobs), set(lost.directories))
    unfit = lost.blobs | lost.shown
    if not missing and not unfit:
        return 0
    checkouts = [info for info in store.paths.all() if os.path.lexists(_checkout(store, info))]
    for info in checkouts:
        missing.from_checkout(_checkout(store, info))
    for place in places:
        missing.from_place(place)
    for source in nars:
        missing.from_nars(source)
    for info in checkouts:
        if _shows(store, info, unfit):
            # Out of the way for new starts; a running program keeps what it has mounted.
            retire_checkout(store.layout, info.path.base)
    drop_closure_views(store, every=True)
    for digest in unfit:
        for twin in store.layout.twins.glob(f"{digest.hex()[:2]}/{digest.hex()}-*"):
            twin.unlink(missing_ok=True)
    return len(lost.blobs) + len(lost.directories) - len(missing)


class _Missing:
    """What is still to be found."""

    def __init__(self, store: Store, blobs: set[B3Digest], directories: set[B3Digest]) -> None:
        self._store = store
        self._blobs = blobs
        self._directories = directories

    def __len__(self) -> int:
        """Nothing is left to do when this is 0."""
        return len(self._blobs) + len(self._directories)

    def from_checkout(self, checkout: Path) -> None:
        """Also of one that is damaged itself, what has a digest that is wanted is good."""
        with self._batch() as batch, suppress(EkaError):
            ingest_tree(batch, checkout)
            self._keep(batch)

    def from_place(self, place: Source) -> None:
        with self._batch() as batch, suppress(ServiceError):
            for root in self._roots():
                with suppress(StoreCorrupt):
                    for directory in place.directories.get_tree(root) or ():
                        batch.add_directory(directory)
            for digest in self._blobs:
                with suppress(StoreCorrupt):
                    if reader := place.blobs.open_read(digest):
                        with reader:
                            take(batch, reader.read)
            self._keep(batch)

    def from_nars(self, source: Nars) -> None:
        """What has a digest that is wanted is good, whatever else comes with it."""
        for info in list(self._store.paths.all()):
            if self and _shows(self._store, info, self._blobs):
                with self._batch() as batch, suppress(*_PLACES_FAULT):
                    source.take(batch, info)
                    self._keep(batch)

    def _roots(self) -> set[B3Digest]:
        """Of the paths that lack directories: some services know trees by their roots only."""
        if not self._directories:
            return set()
        infos = self._store.paths.all()
        return {
            info.node.digest
            for info in infos
            if isinstance(info.node, DirectoryNode) and _shows(self._store, info, ())
        }

    def _batch(self) -> Batch:
        return self._store.batch(distrust=self._blobs | self._directories)

    def _keep(self, batch: Batch) -> None:
        found = batch.keep_only(self._blobs | self._directories)
        self._store.commit_loose(batch)
        self._blobs -= found
        self._directories -= found


def _checkout(store: Store, info: PathInfo) -> Path:
    return store.layout.bind_view / info.path.base


def _shows(store: Store, info: PathInfo, blobs: Collection[B3Digest]) -> bool:
    """Whether a path has one of these blobs, or cannot be told to have none."""
    try:
        nodes = [info.node]
        for _, directory in walk(info.node, store.directories):
            nodes += [node for _, node in directory.entries]
    except StoreCorrupt:
        return True
    return any(isinstance(node, FileNode) and node.digest in blobs for node in nodes)
