"""What has to be copied between a store and another place that has blobs, trees and path infos.

A path that is valid in a place has its closure there, so the search ends at such paths. The other
place may be far away: all that is asked at one distance from the start is asked at once. How the
paths are then copied: `incoming.py` and `outgoing.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Protocol

from eka_runtime.castore.services import (
    BlobService,
    DirectoryTrees,
    WritableBlobs,
    WritableDirectories,
)
from eka_runtime.errors import HashMismatch, PathNotFound, ServiceError
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.services import PathInfoService

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

JOBS = 64
"""Questions that wait for an answer at the same time."""
MAX_CLOSURE = 1_000_000
"""Paths in a closure; a far service could otherwise name new references for ever."""


class KnownPaths(Protocol):
    """The part of a PathInfoService that copying from it needs."""

    def by_hash(self, digits: str) -> PathInfo | None: ...


class Source(Protocol):
    """A place to copy from; `name` is how messages call it."""

    @property
    def name(self) -> str: ...
    @property
    def blobs(self) -> BlobService: ...
    @property
    def directories(self) -> DirectoryTrees: ...
    @property
    def paths(self) -> KnownPaths: ...


class Target(Protocol):
    """A place to copy to."""

    @property
    def name(self) -> str: ...
    @property
    def blobs(self) -> WritableBlobs: ...
    @property
    def directories(self) -> WritableDirectories: ...
    @property
    def paths(self) -> PathInfoService: ...


@contextmanager
def threads(jobs: int = JOBS) -> Iterator[ThreadPoolExecutor]:
    """Does not wait for them after an error: a far service may never answer."""
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="copy")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def missing_here(store: Store, far: Source, paths: Iterable[StorePath]) -> list[PathInfo]:
    """What `copy_from` has to copy for these paths: references first, nothing that is here.

    What is here already stays until the store is closed, so that what will refer to it can come.
    Raises PathNotFound for what neither place has, ServiceError for an answer that makes no sense.
    """
    found: dict[StorePath, PathInfo] = {}
    asked_by: dict[StorePath, StorePath | None] = {}
    wanted = _absent(store, dict.fromkeys(paths, None), asked_by)
    with threads() as pool:
        while wanted:
            infos = pool.map(far.paths.by_hash, [path.hash for path in wanted])
            following: dict[StorePath, StorePath | None] = {}
            for path, info in zip(wanted, infos, strict=True):
                found[path] = _expected(store, far, path, info, asked_by[path])
                following.update(dict.fromkeys(found[path].references, path))
            wanted = _absent(store, following, asked_by)
            if len(asked_by) > MAX_CLOSURE:
                raise ServiceError(f"{far.name}: the closure has more than {MAX_CLOSURE} paths")
    return _references_first(far.name, found)


def _absent(
    store: Store,
    candidates: dict[StorePath, StorePath | None],
    asked_by: dict[StorePath, StorePath | None],
) -> list[StorePath]:
    """Those to be looked for: a path that is valid here has its closure here."""
    new = [path for path in candidates if path not in asked_by]
    here = kept_here(store, new)
    absent = [path for path in new if path not in here]
    asked_by.update((path, candidates[path]) for path in absent)
    return absent


def kept_here(store: Store, paths: list[StorePath]) -> set[StorePath]:
    """Those that are valid here, and from now on wanted, so that no collection takes them."""
    while True:
        here = {path for path in paths if store.paths.get(path) is not None}
        if not store.writable:
            return here
        # Gone when it was collected between the two looks.
        with suppress(PathNotFound):
            store.paths.touch(here)
            return here


def _expected(
    store: Store, far: Source, path: StorePath, info: PathInfo | None, asked_by: StorePath | None
) -> PathInfo:
    if info is not None and info.path == path:
        return info
    other = f", which has `{info.path.base}`" if info else ""
    why = f" (`{asked_by}` refers to it)" if asked_by else ""
    hint = f"copy the whole closure to {far.name}" if asked_by else "check the spelling of the path"
    raise PathNotFound(
        f"`{path}` is neither in the store `{store.root}` nor in {far.name}{other}{why}", hint=hint
    )


def _references_first(name: str, infos: dict[StorePath, PathInfo]) -> list[PathInfo]:
    return [infos[path] for level in levels(name, infos) for path in level]


def levels(name: str, infos: dict[StorePath, PathInfo]) -> Iterator[list[StorePath]]:
    """Sets of paths, sorted, that refer only to earlier sets, themselves and what is not given."""
    sorter = TopologicalSorter(
        {path: infos.keys() & set(info.references) - {path} for path, info in infos.items()}
    )
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(path.base for path in error.args[1])
        raise ServiceError(f"{name}: references form a cycle: {cycle}") from error
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        yield ready
        sorter.done(*ready)


def missing_there(store: Store, far: Target, paths: Iterable[StorePath]) -> list[PathInfo]:
    """What `copy_to` has to copy for the closure of these paths, references first.

    Raises PathNotFound for a path that is not in the store, HashMismatch for one that is in far
    with other contents.
    """
    infos = [store.info(path) for path in store.closure(paths)]
    with threads() as pool:
        known = pool.map(far.paths.by_hash, [info.path.hash for info in infos])
        missing = {
            info.path: info
            for info, there in zip(infos, known, strict=True)
            if not _is_there(info, there, far.name)
        }
    return _references_first(str(store.root), missing)


def _is_there(info: PathInfo, there: PathInfo | None, name: str) -> bool:
    if there is not None and (there.path, there.nar_hash) != (info.path, info.nar_hash):
        ours, theirs = (NixHash("sha256", one.nar_hash).sri() for one in (info, there))
        raise HashMismatch(
            f"`{info.path}` is in {name} as `{there.path.base}` with NAR hash {theirs}, not {ours}",
            hint="find out which contents are right; nothing was copied",
        )
    return there is not None
