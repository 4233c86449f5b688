"""A store: one directory of paths, their contents and what is known about them.

`layout.py` says how it lies on disk and how writes stay whole; this is the door that everything
else uses. Any number of processes may have a store open at once; one Store may be used from
several threads. Every start that looks up a path pays for this module's imports, so those that only
adding, transferring or verifying need (half of the time) are made where they are used.
Out of scope: deleting (`gc.py`), caches, views.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eka_runtime.castore.blobs import LocalBlobs
from eka_runtime.castore.database import Database
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.directories import LocalDirectories
from eka_runtime.castore.epochs import Hold
from eka_runtime.castore.node import Node
from eka_runtime.closing import Closing
from eka_runtime.errors import InvalidStorePath, PathNotFound, StoreAccessError, StoreError
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.nar import Read, Write
from eka_runtime.nix.path import ContentAddress, StorePath, check_name, path_for_ca
from eka_runtime.store import closure as graph
from eka_runtime.store import contents
from eka_runtime.store.layout import (
    Layout,
    complete,
    default_store_dir,
    is_writable,
    open_layout,
)
from eka_runtime.store.pathinfo import SCHEMA, PathInfo, PathInfos
from eka_runtime.store.roots import SCHEMA as ROOTS_SCHEMA
from eka_runtime.store.roots import Roots

if TYPE_CHECKING:
    from eka_runtime.castore.batch import Batch
    from eka_runtime.castore.ingest import Ingested
    from eka_runtime.store.group_commit import GroupCommit
    from eka_runtime.store.verify import Problem, Progress, Verified

__all__ = ["Store", "default_store_dir"]

Source = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class Store(Closing):
    """Made by `open`, which is the constructor; a context manager."""

    def __init__(self, layout: Layout, database: Database, *, writable: bool) -> None:
        self.layout = layout
        self.writable = writable
        self.database = database
        self.hold = Hold(layout.epochs, database)
        self.blobs = LocalBlobs(layout.blobs, layout.packs, database)
        self.directories = LocalDirectories(database)
        self.paths = PathInfos(database)
        self.roots = Roots(database)
        self._guard = threading.Lock()
        self._loose: GroupCommit | None = None

    @classmethod
    def open(cls, root: Path, *, create: bool = True) -> Store:
        """Opens for reading what the caller may only read.

        Raises StoreFormatError, StoreAccessError, StoreCorrupt, and StoreError when there is no
        store and `create` is false. What is in the store stays readable until it is closed.
        """
        layout = open_layout(root, create=create)
        writable = is_writable(layout)
        if writable:
            complete(layout)
        database = Database(layout.database, SCHEMA + ROOTS_SCHEMA, readonly=not writable)
        try:
            return cls(layout, database, writable=writable)
        except BaseException:
            database.close()
            raise

    @property
    def root(self) -> Path:
        return self.layout.root

    def require_writable(self) -> None:
        """Raises StoreAccessError for a store that can only be read."""
        if not self.writable:
            raise StoreAccessError(
                f"the store `{self.root}` can only be read by this user",
                hint="use a store of your own (`--store DIR`), or ask its owner",
            )

    @contextmanager
    def uninvolved(self) -> Iterator[None]:
        """Meanwhile our own presence keeps nothing from being removed; afterwards it does again.

        Whatever was looked up before may be gone then.
        """
        self.hold.close()
        try:
            yield
        finally:
            self.hold = Hold(self.layout.epochs, self.database)

    def close(self) -> None:
        self.blobs.close()
        self.database.close()
        self.hold.close()

    def add_tree(
        self, source: Source, *, name: str | None = None, progress: Progress | None = None
    ) -> PathInfo:
        """Adds a file, directory or symlink as `nix-store --add` does; `name` is the basename.

        Raises InvalidStorePath before anything is read, CastoreError for what no tree can hold,
        StoreAccessError for what cannot be read or written. `progress` gets files and bytes.
        """
        from eka_runtime.castore.ingest import ingest_tree

        valid = _valid_name(source, name)
        with self.batch() as batch:
            ingested = ingest_tree(batch, _unslashed(source), progress=progress)
            nar_hash = NixHash("sha256", ingested.nar_hash)
            return self._commit_addressed(
                batch, valid, ContentAddress("recursive", nar_hash), ingested
            )

    def add_flat(
        self, source: Source, *, name: str | None = None, progress: Progress | None = None
    ) -> PathInfo:
        """Adds a file by its contents alone, as `nix-store --add-fixed sha256` does.

        Follows symlinks; otherwise as `add_tree`.
        """
        from eka_runtime.castore.ingest import ingest_file

        valid = _valid_name(source, name)
        with self.batch() as batch:
            _, contents_hash, ingested = ingest_file(batch, source, progress=progress)
            address = ContentAddress("flat", NixHash("sha256", contents_hash))
            return self._commit_addressed(batch, valid, address, ingested)

    def import_stream(
        self, read: Read, *, each: Callable[[PathInfo], object] = lambda info: None
    ) -> list[PathInfo]:
        """Adds the paths of a `nix-store --export` stream; `each` is told of every one at once.

        `read(n)` returns 1..n bytes, b"" at the end. Whatever is raised, paths that `each` got
        are valid, and nothing else has changed. Raises NarError and ExportError for what is no
        such stream, StoreError for a reference that is not in the store, HashMismatch for a path
        that is there with other contents.
        """
        from eka_runtime.store import transfer

        return transfer.import_stream(self, read, each)

    def export(self, paths: Iterable[StorePath], write: Write) -> None:
        """Writes a stream for `nix-store --import`, references first.

        Raises PathNotFound before anything is written, StoreCorrupt in the middle of it.
        """
        from eka_runtime.store import transfer

        transfer.export(self, paths, write)

    def write_nar(self, path: StorePath, write: Write) -> None:
        """Raises StoreCorrupt when all is written but is not what was added."""
        from eka_runtime.store import transfer

        transfer.write_checked_nar(self, self.info(path), write)

    def restore(self, path: StorePath | str, dest: Path) -> None:
        """Copies a path, or what is at `PATH/sub`, to `dest`, which must not exist.

        Files are 0644 or 0755, as Nix restores them. `dest` appears complete and verified, or
        not at all.
        """
        from eka_runtime.store import transfer

        _, node = self.resolve(str(path))
        transfer.restore(self, node, dest)

    def info(self, path: StorePath) -> PathInfo:
        """Raises PathNotFound, or StoreCorrupt for a damaged row."""
        if found := self.paths.get(path):
            return found
        raise PathNotFound(
            f"`{path}` is not in the store `{self.root}`",
            hint="add it with `eka store add`, or import it with `eka store import`",
        )

    def resolve(self, text: str) -> tuple[PathInfo, Node]:
        """The path of `/nix/store/<base>[/sub]`, and the node at `sub`.

        Symlinks are not followed: PathNotFound names the one that would have to be, or what is
        missing.
        """
        return contents.resolve(self, text)

    def write_file(self, text: str, write: Write) -> None:
        """Writes the contents of the file at `/nix/store/<base>[/sub]`.

        Raises as `resolve`, and StoreCorrupt when all is written but is not what was added.
        """
        contents.write_file(self, text, write)

    def closure(self, paths: Iterable[StorePath]) -> list[StorePath]:
        """The paths and all that they refer to, sorted. Raises PathNotFound."""
        roots = list(paths)
        found = graph.closure(self.database, roots)
        for path in set(roots).difference(found):
            self.info(path)
        return found

    def closure_size(self, paths: Iterable[StorePath]) -> int:
        """Sum of the NAR sizes of the closure."""
        return graph.closure_size(self.database, paths)

    def referrers(self, path: StorePath) -> list[StorePath]:
        """Those that refer to it directly, sorted. Raises PathNotFound."""
        return self.paths.referrers(self.info(path).path)

    def why(self, start: StorePath, goal: StorePath) -> list[StorePath]:
        """A shortest chain of references, both ends included; [] if there is none."""
        return graph.why(self.database, self.info(start).path, self.info(goal).path)

    def verify(
        self, *, deep: bool, report: Callable[[Problem], None], progress: Progress | None = None
    ) -> Verified:
        """See `verify.py`."""
        from eka_runtime.store.verify import verify_store

        return verify_store(self, deep=deep, report=report, progress=progress)

    def batch(self, *, distrust: Iterable[B3Digest] = ()) -> Batch:
        """For content on its way in; ends in `commit`."""
        from eka_runtime.castore.batch import Batch

        return Batch(self.database, self.blobs, self.layout.tmp, distrust=distrust)

    def commit(self, batch: Batch, info: PathInfo) -> PathInfo:
        """Makes everything in the batch durable, and the path valid; returns what is recorded.

        An already valid path keeps its path info. Raises as `PathInfos.insert`; whatever it
        raises, the batch is of no more use.
        """
        recorded: list[PathInfo] = []
        self.commit_all([(batch, info)], recorded.append)
        return recorded[0]

    def commit_all(
        self,
        group: Iterable[tuple[Batch, PathInfo]],
        each: Callable[[PathInfo], object] = lambda info: None,
        *,
        or_none: bool = False,
    ) -> None:
        """As `commit` for several, up to the first that is refused; `each` gets what is recorded.

        One transaction; each path may refer to those before it. With `or_none`, a refusal is one
        of all of them.
        """
        from eka_runtime.castore.batch import sync_all

        entries, recorded, refusal = list(group), [], None
        sync_all([batch for batch, _ in entries])
        with self.database.transaction() as conn:
            for batch, info in entries:
                try:
                    self.paths.insert(conn, info._replace(registered=int(time.time())))
                except StoreError as error:
                    if or_none:
                        raise
                    refusal = error
                    break
                batch.flush(conn)
                recorded.append(self.info(info.path))
        for batch, _ in entries[: len(recorded)]:
            batch.committed()
        for info in recorded:
            each(info)
        if refusal is not None:
            raise refusal

    def commit_paths(self, batch: Batch, infos: Iterable[PathInfo]) -> None:
        """As `commit`, for several paths with their contents in one batch: all of them or none."""
        batch.sync()
        now = int(time.time())
        with self.database.transaction() as conn:
            batch.flush(conn)
            for info in infos:
                self.paths.insert(conn, info._replace(registered=now))
        batch.committed()

    def commit_loose(self, batch: Batch) -> None:
        """Makes contents durable and visible that no path needs yet; see `uploads.py`.

        Threads that commit at the same time wait for the disk together.
        """
        with self._guard:
            if self._loose is None:
                from eka_runtime.store.group_commit import GroupCommit

                self._loose = GroupCommit(self._commit_all_loose)
        self._loose.commit(batch)

    def _commit_all_loose(self, batches: Sequence[Batch]) -> None:
        from eka_runtime.castore.batch import sync_all

        sync_all(batches)
        with self.database.transaction() as conn:
            for batch in batches:
                batch.flush(conn, loose=True)
        for batch in batches:
            batch.committed()

    def _commit_addressed(
        self, batch: Batch, name: str, address: ContentAddress, ingested: Ingested
    ) -> PathInfo:
        path = path_for_ca(name, address)
        return self.commit(batch, PathInfo(path, *ingested, ca=str(address)))


def _unslashed(source: Source) -> bytes:
    # `link/` is the link for Nix as well, not what it points at.
    return os.fsencode(source).rstrip(b"/") or b"/"


def _valid_name(source: Source, name: str | None) -> str:
    if name is not None:
        return check_name(name)
    own = os.path.basename(os.path.abspath(os.fsdecode(source)))
    try:
        return check_name(own)
    except InvalidStorePath as error:
        raise InvalidStorePath(str(error), hint="give a name with `--name NAME`") from error
