"""Takes paths in from another place: what it says is checked as far as it can be.

Every blob and directory is checked against its digest, every tree against the NAR hash of its path
info. The path info itself (that this name has these contents and references) is believed, so take
only from whom you trust.

Paths come references first, and each is valid as soon as it is complete: whatever ends a copy,
those taken in are whole, and the next copy goes on with the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from eka_runtime.castore.blobs import LocalBlobs
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.ingest import Ingested, ingest_nar
from eka_runtime.castore.nar_source import NarSource
from eka_runtime.castore.node import DirectoryNode, FileNode, Node
from eka_runtime.castore.prefetch import Prefetch
from eka_runtime.castore.services import DirectoryService, require_directory
from eka_runtime.castore.trees import Tree
from eka_runtime.errors import HashMismatch, StoreCorrupt
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.nar import NarReader, Read
from eka_runtime.nix.path import StorePath
from eka_runtime.store.copying import Source
from eka_runtime.store.pathinfo import PathInfo, wrong_ca

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

_TREES_AHEAD = 32
_TREE_JOBS = 8
# Of entries of one path; files after them are fetched one by one.
_EXPECTED_MAX = 1 << 20

Progress = Callable[[int, int], object]
"""Called with paths that are done, and bytes so far."""


def copy_from(
    store: Store,
    far: Source,
    infos: Iterable[PathInfo],
    *,
    each: Callable[[PathInfo], object] = lambda info: None,
    progress: Progress = lambda paths, size: None,
) -> None:
    """Copies what `missing_here` found, in its order; `each` is told of every path made valid.

    Raises HashMismatch when a path's contents are not what its path info says, StoreCorrupt when
    something is damaged or missing in far, ServiceError when far cannot be reached, and what
    writing to the store raises. What `each` got stays.
    """
    incoming = _Incoming(store, far, list(infos))
    with incoming:
        done = size = 0
        for info in incoming.infos:

            def report(files: int, read: int, done: int = done, size: int = size) -> None:
                progress(done, size + read)

            each(_take_in(store, far, info, incoming, report))
            done, size = done + 1, size + info.nar_size
            progress(done, size)


def _take_in(
    store: Store,
    far: Source,
    info: PathInfo,
    incoming: _Incoming,
    progress: Callable[[int, int], None],
) -> PathInfo:
    directories = incoming.begin(info)
    nar = NarSource(info.node, incoming.blobs, directories)
    reader = NarReader(_bounded(nar.read, info), subject=str(info.path))
    with store.batch() as batch:
        ingested = ingest_nar(batch, reader, progress=progress)
        _check(info, ingested, far.name)
        # snix records content addresses of fixed outputs that are no one's; nor are lies kept.
        recorded = store.commit(batch, info._replace(ca=None) if wrong_ca(info) else info)
    incoming.end(info)
    return recorded


def _bounded(read: Read, info: PathInfo) -> Read:
    """A tree of few directories can have endless contents, when they contain each other twice."""
    left = info.nar_size

    def bounded(size: int) -> bytes:
        nonlocal left
        data = read(size)
        left -= len(data)
        if left < 0:
            raise HashMismatch(
                f"the NAR of `{info.path}` has more than the {info.nar_size} bytes that its path"
                " info says"
            )
        return data

    return bounded


def _check(info: PathInfo, ingested: Ingested, name: str) -> None:
    if (ingested.nar_hash, ingested.nar_size) != (info.nar_hash, info.nar_size):
        stated, actual = (NixHash("sha256", one.nar_hash).sri() for one in (info, ingested))
        raise HashMismatch(
            f"`{info.path}` from {name} has NAR hash {actual} ({ingested.nar_size} bytes),"
            f" but its path info says {stated} ({info.nar_size} bytes)",
            hint="nothing of it was kept; have it copied there again",
        )
    if ingested.node != info.node:
        raise StoreCorrupt(f"`{info.path}` from {name} is not the tree of its path info")


class _Incoming:
    """Trees and blobs on their way from far, ahead of the path that is being taken in."""

    def __init__(self, store: Store, far: Source, infos: list[PathInfo]) -> None:
        self.infos = infos
        self._store = store
        self._far = far
        self._threads = ThreadPoolExecutor(_TREE_JOBS, thread_name_prefix="trees")
        self._unasked = deque(infos)
        self._trees: deque[tuple[PathInfo, Future[DirectoryService]]] = deque()
        self._expected: dict[StorePath, DirectoryService] = {}
        # Blobs that a path before the one at hand brings; by the path, so that none is kept long.
        self._brought: dict[StorePath, set[B3Digest]] = {}
        self.blobs = Prefetch(Lasting(store.blobs), far.blobs, more=self._more)

    def __enter__(self) -> _Incoming:
        self._ask()
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.blobs.__exit__(None, None, None)

    def begin(self, info: PathInfo) -> DirectoryService:
        """The directories of the next path; its blobs are on their way."""
        while info.path not in self._expected:
            self.blobs.expect(self._expect_next())
        return self._expected.pop(info.path)

    def end(self, info: PathInfo) -> None:
        """The path is valid, and so its blobs are near."""
        self._brought.pop(info.path, None)

    def _more(self) -> list[FileNode]:
        """Blobs of a path whose tree has come; [] before that."""
        return self._expect_next() if self._trees and self._trees[0][1].done() else []

    def _expect_next(self) -> list[FileNode]:
        info, tree = self._trees.popleft()
        directories = tree.result()
        self._expected[info.path] = directories
        self._ask()
        known: dict[B3Digest, bool] = {}
        files = []
        for node in files_below(info.node, directories, _EXPECTED_MAX):
            if node.digest not in known:
                known[node.digest] = self._comes_anyway(node.digest)
            if not known[node.digest]:
                files.append(node)
        self._brought[info.path] = {node.digest for node in files}
        return files

    def _comes_anyway(self, digest: B3Digest) -> bool:
        brought = any(digest in one for one in self._brought.values())
        return brought or self._store.blobs.is_alive(digest)

    def _ask(self) -> None:
        while self._unasked and len(self._trees) < _TREES_AHEAD:
            info = self._unasked.popleft()
            self._trees.append((info, self._threads.submit(self._tree, info)))

    def _tree(self, info: PathInfo) -> DirectoryService:
        near = self._store.directories
        if not isinstance(info.node, DirectoryNode) or near.is_alive(info.node.digest):
            return near
        sent = self._far.directories.get_tree(info.node.digest)
        if sent is None:
            raise StoreCorrupt(
                f"{self._far.name} has the path info of `{info.path}`, but not its directories",
                hint="have it copied there again",
            )
        return Tree.receive(info.node.digest, sent)


class Lasting(NamedTuple):
    """A BlobService without what a collection marked before this store was opened: it may go."""

    blobs: LocalBlobs

    def has(self, digest: B3Digest) -> bool:
        return self.blobs.is_alive(digest)

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        return self.blobs.open_read(digest) if self.has(digest) else None


def files_below(node: Node, directories: DirectoryService, most: int) -> Iterator[FileNode]:
    """In the order of a NAR, each as often as it occurs; ends when it has seen so many entries.

    A hostile tree may have 2**60, and not one file among them.
    """
    if isinstance(node, FileNode):
        yield node
    if not isinstance(node, DirectoryNode):
        return
    levels = [_below(node, directories)]
    while levels:
        for _, child in levels[-1]:
            if (most := most - 1) < 0:
                return
            if isinstance(child, FileNode):
                yield child
            elif isinstance(child, DirectoryNode):
                levels.append(_below(child, directories))
                break
        else:
            levels.pop()


def _below(node: DirectoryNode, directories: DirectoryService) -> Iterator[tuple[bytes, Node]]:
    return iter(require_directory(directories, node.digest).entries)
