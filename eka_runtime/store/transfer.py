"""Whole paths in and out of a store: export streams, NARs, and trees on disk.

What goes out is hashed on the way, and a NAR that no longer has the hash the store knows ends in
StoreCorrupt: whoever reads it must not take it for good. What comes in is hostile: each path is
stored when its NAR and its trailer are complete, and nothing of an incomplete one remains.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.blobs import LocalBlobs
from eka_runtime.castore.checkout import checkout
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.extents import extents_of, read_extents
from eka_runtime.castore.hashing import StreamHash
from eka_runtime.castore.ingest import Ingested, ingest_nar
from eka_runtime.castore.nar_source import nar_pieces
from eka_runtime.castore.node import DirectoryNode, Node
from eka_runtime.castore.removal import remove_tree
from eka_runtime.castore.render import write_nar
from eka_runtime.errors import StoreCorrupt, UsageError
from eka_runtime.nix.export import ExportItem, read_export, write_export
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.tokens import NarReader, Read, Write
from eka_runtime.store import closure
from eka_runtime.store.pathinfo import PathInfo

if TYPE_CHECKING:
    from eka_runtime.store.store import Store


def import_stream(store: Store, read: Read, each: Callable[[PathInfo], object]) -> list[PathInfo]:
    with _Committer(store, each) as committer:
        for item, (batch, ingested) in read_export(read, committer.take):
            committer.add(batch, PathInfo(item.path, *ingested, item.references, item.deriver))
    return committer.committed


class _Committer:
    """Commits complete paths, in order: one at once, more together while commits are slow.

    A commit waits for the disk two times, whatever it holds. So after one that took a while, the
    next comes no sooner than after as long again, and takes all that has become complete till then.
    """

    _GROUP_MAX = 64  # bounds descriptors (three for each batch) and memory

    def __init__(self, store: Store, each: Callable[[PathInfo], object]) -> None:
        self.committed: list[PathInfo] = []
        self._store = store
        self._each = each
        self._batches = ExitStack()
        self._complete: list[tuple[Batch, PathInfo]] = []
        self._not_before = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # Also when the stream is broken, or the user interrupts: complete paths stay.
        with self._batches:
            self._commit()

    def take(self, reader: NarReader) -> tuple[Batch, Ingested]:
        batch = self._batches.enter_context(self._store.batch())
        return batch, ingest_nar(batch, reader)

    def add(self, batch: Batch, info: PathInfo) -> None:
        self._complete.append((batch, info))
        if len(self._complete) == self._GROUP_MAX or time.monotonic() >= self._not_before:
            self._commit()
            self._batches.close()

    def _commit(self) -> None:
        group, self._complete = self._complete, []
        start = time.monotonic()
        if group:
            self._store.commit_all(group, self._tell)
        end = time.monotonic()
        self._not_before = end + (end - start)

    def _tell(self, info: PathInfo) -> None:
        self.committed.append(info)
        self._each(info)


def export(store: Store, paths: Iterable[StorePath], write: Write) -> None:
    # All are looked up first, so that a missing one fails before a byte is out.
    infos = {path: store.info(path) for path in paths}
    ordered = [infos[path] for path in closure.topological(store.database, infos)]
    write_export(((_item(info), _nar_writer(store, info)) for info in ordered), write)


def _item(info: PathInfo) -> ExportItem:
    return ExportItem(info.path, info.references, info.deriver)


def _nar_writer(store: Store, info: PathInfo) -> Callable[[Write], None]:
    return lambda write: write_checked_nar(store, info, write)


def write_checked_nar(store: Store, info: PathInfo, write: Write | None) -> None:
    """Raises StoreCorrupt at the end of a NAR that is not the one the path was added with."""
    # Hashed in a thread of its own, so that rendering and writing need not wait for it.
    with StreamHash() as hashing:

        def pass_on(data: bytes) -> None:
            hashing.update(data)
            if write is not None:
                write(data)

        _write_nar(store, info, pass_on, lambda: hashing.size)
        digest = hashing.digest()
    if (digest, hashing.size) != (info.nar_hash, info.nar_size):
        raise StoreCorrupt(
            f"`{info.path}` has changed since it was added: its NAR has another hash",
            hint="run `eka store verify --deep` to find the damaged files",
        )


def _write_nar(
    store: Store, info: PathInfo, write: Callable[[bytes], object], written: Callable[[], int]
) -> None:
    for data in _from_extents(store, info):
        write(data)
    if not written():
        # A little faster than what can begin anywhere.
        write_nar(info.node, store.blobs, store.directories, write)
    elif written() < info.nar_size:
        for data in nar_pieces(info.node, store.blobs, store.directories, written()):
            write(data)


def nar_stream(store: Store, info: PathInfo) -> Iterator[bytes]:
    """The NAR of a path in pieces of some 256 KiB, not compared with its hash.

    From its extents as far as those are what they were; the rest is put together.
    """
    written = 0
    for data in _from_extents(store, info):
        written += len(data)
        yield data
    if written < info.nar_size:
        yield from nar_pieces(info.node, store.blobs, store.directories, written)


def _from_extents(store: Store, info: PathInfo) -> Iterator[bytes]:
    if isinstance(info.node, DirectoryNode):
        extents = extents_of(store.database.connection, info.node.digest)
        if sum(one.nar_size for one in extents) == info.nar_size:
            yield from read_extents(store.blobs, extents)


def restore(store: Store, node: Node, dest: Path) -> None:
    """Beside `dest` first, then renamed: what has that name is complete."""
    if os.path.lexists(dest):
        raise UsageError(f"`{dest}` exists already", hint="name a path that does not exist")
    fresh = dest.parent / f".eka-{os.urandom(8).hex()}"
    try:
        checkout(node, fresh, Verified(store.blobs), store.directories, link=None)
        os.rename(fresh, dest)
    except OSError as error:
        raise UsageError(f"cannot write `{dest}`: {error.strerror}") from error
    finally:
        remove_tree(fresh)


class Verified(NamedTuple):
    """A BlobService that gives out nothing damaged, at the price of reading it twice."""

    blobs: LocalBlobs

    def has(self, digest: B3Digest) -> bool:
        return self.blobs.has(digest)

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        self.blobs.verify(digest)
        return self.blobs.open_read(digest)
