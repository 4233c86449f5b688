"""Brings planned paths from binary caches into the store.

Each NAR is streamed through one thread: download, decompression, parsing, hashing, blobs. Nothing
of it is held but a few pieces. Several go at once, because one waits for the network while another
unpacks, and xz keeps a processor busy. They become valid in the order of the plan, references
first, as soon as they are complete, many with one commit while the disk is slow.

A NAR that is not what its narinfo says is dropped, and the next cache is asked for the path.
Whatever ends a fetch: what became valid is whole and stays, and the next fetch goes on with the
rest.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from eka_runtime.cache.client import BinaryCache, Nar
from eka_runtime.cache.crew import Crew
from eka_runtime.cache.infused import InfusedNar, infused_node
from eka_runtime.cache.substituter import Found, Substituter
from eka_runtime.cache.trust import ContentCheck, addressed
from eka_runtime.cache.update import UpdateNar, Updates
from eka_runtime.castore.ingest import Ingested, ingest_nar
from eka_runtime.errors import (
    EkaError,
    FormatError,
    HashMismatch,
    PathNotFound,
    ServiceError,
    StoreCorrupt,
)
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.nar import NarReader, Read
from eka_runtime.nix.narinfo import NarInfo
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo, wrong_ca

if TYPE_CHECKING:
    from eka_runtime.castore.batch import Batch
    from eka_runtime.store.copying import Source
    from eka_runtime.store.store import Store

# Complete paths that wait for a reference keep three descriptors open each.
_AHEAD = 64
# Seconds for those who are told to stop; a connection in the making takes its time.
_GRACE = 3.0
# Errors that are the cache's fault, so that another one may do better.
_FAULTS = (ServiceError, FormatError, HashMismatch)

Each = Callable[[PathInfo], object]
Progress = Callable[[int, int], object]
"""Called with paths that are valid, and unpacked bytes so far."""


def fetch(
    store: Store,
    substituter: Substituter,
    found: Sequence[Found],
    *,
    each: Each = lambda info: None,
    progress: Progress = lambda paths, size: None,
    warn: Callable[[str], object] = lambda text: None,
    castore: Source | None = None,
    jobs: int | None = None,
) -> None:
    """`found` is a plan's; `each` is told of every path that is valid, `warn` of bad caches.

    From `castore` come the blobs that the store lacks where a narinfo names a castore node.
    Raises the error of the last cache that was tried for a path, and what writing raises. What
    `each` got stays.
    """
    jobs = jobs or _default_jobs()
    _Fetch(store, substituter, found, each, progress, warn, castore, jobs).run()


def _default_jobs() -> int:
    return min(4 + 2 * (os.cpu_count() or 1), 16)


class _Brought(NamedTuple):
    batch: Batch
    info: PathInfo


class _Fetch:
    def __init__(
        self,
        store: Store,
        substituter: Substituter,
        found: Sequence[Found],
        each: Each,
        progress: Progress,
        warn: Callable[[str], object],
        castore: Source | None,
        jobs: int,
    ) -> None:
        self._store = store
        self._castore = castore
        self._updates = Updates(store)
        self._substituter = substituter
        self._order = [one.path for one in found]
        self._waiting = deque(found)
        self._each = each
        self._progress = progress
        self._warn = warn
        self._jobs = jobs
        self._tried: dict[StorePath, set[BinaryCache]] = {}
        self._brought: dict[StorePath, _Brought] = {}
        self._committed = 0
        self._counter = _Counter()
        self._running = _Running()

    def run(self) -> None:
        with Crew[Found, _Brought](self._jobs, "nar") as crew:
            try:
                self._start(crew)
                while self._committed < len(self._order):
                    report = crew.next(0.1)
                    # All that has come meanwhile goes into the same commit.
                    while report is not None:
                        if report.result is not None:
                            self._brought[report.key.path] = report.result
                        else:
                            self._retry(crew, report.key, report.error)
                        report = crew.next(0)
                    self._commit()
                    self._start(crew)
                    self._progress(self._committed, self._counter.value)
            finally:
                self._finish(crew)

    def _start(self, crew: Crew[Found, _Brought]) -> None:
        while self._waiting and crew.busy < self._jobs and self._within_window():
            self._submit(crew, self._waiting.popleft())

    def _within_window(self) -> bool:
        return len(self._order) - len(self._waiting) - self._committed < _AHEAD

    def _submit(self, crew: Crew[Found, _Brought], found: Found) -> None:
        self._tried.setdefault(found.path, set()).add(found.cache)
        crew.submit(found, lambda: self._bring(found))

    def _bring(self, found: Found) -> _Brought:
        # Whatever is wrong with its parts, the cache has the whole NAR as well.
        with suppress(*_FAULTS, StoreCorrupt):
            if (nar := self._by_parts(found)) is not None:
                return _take_in(self._store, found, nar, self._running, self._counter.add)
        return _bring(self._store, found, self._running, self._counter.add)

    def _by_parts(self, found: Found) -> InfusedNar | UpdateNar | None:
        node = infused_node(found.info.url) if self._castore else None
        if node is not None and self._castore is not None:
            return InfusedNar(self._store, self._castore, node)
        return self._updates.nar(found)

    def _retry(
        self, crew: Crew[Found, _Brought], found: Found, error: BaseException | None
    ) -> None:
        if not isinstance(error, _FAULTS):
            raise error or AssertionError
        other = self._substituter.again(found.path, self._tried[found.path])
        if other is None:
            raise error
        self._warn(f"{error}; taking it from {other.cache.name}")
        self._submit(crew, other)

    def _commit(self) -> None:
        """The longest run of complete paths that is next in the order."""
        group: list[tuple[Batch, PathInfo]] = []
        for path in self._order[self._committed :]:
            if path not in self._brought:
                break
            group.append(self._brought.pop(path))
        if not group:
            return
        try:
            self._store.commit_all(group, self._tell)
        finally:
            for batch, _ in group:
                batch.__exit__(None, None, None)

    def _tell(self, info: PathInfo) -> None:
        self._committed += 1
        self._each(info)

    def _finish(self, crew: Crew[Found, _Brought]) -> None:
        """Complete paths stay; whoever is still at work stops at his next piece."""
        self._running.stop()
        self._commit()
        for batch, _ in self._brought.values():
            batch.__exit__(None, None, None)
        while crew.busy and (report := crew.next(_GRACE)):
            if report.result is not None:
                report.result.batch.__exit__(None, None, None)


class _Counter:
    def __init__(self) -> None:
        self.value = 0
        self._guard = threading.Lock()

    def add(self, size: int) -> None:
        with self._guard:
            self.value += size


class _Running:
    """The NARs on their way, so that all can be stopped at once."""

    def __init__(self) -> None:
        self.stopped = False
        self._nars: set[Nar | InfusedNar | UpdateNar] = set()
        self._guard = threading.Lock()

    def stop(self) -> None:
        with self._guard:
            self.stopped = True
            for nar in self._nars:
                nar.abort()

    @contextmanager
    def reading(self, nar: Nar | InfusedNar | UpdateNar) -> Iterator[None]:
        with self._guard:
            self._nars.add(nar)
        try:
            yield
        finally:
            with self._guard:
                self._nars.discard(nar)
            nar.close()


class _Stopped(Exception):
    """Nobody wants the path any more."""


def _bring(
    store: Store, found: Found, running: _Running, count: Callable[[int], object]
) -> _Brought:
    """A path whose contents are in a batch, verified; the batch is the caller's to end."""
    info, cache = found
    nar = cache.open_nar(info)
    if nar is None:
        raise ServiceError(f"{cache.name} has the narinfo of `{info.path}`, but not `{info.url}`")
    return _take_in(store, found, nar, running, count)


def _take_in(
    store: Store,
    found: Found,
    nar: Nar | InfusedNar | UpdateNar,
    running: _Running,
    count: Callable[[int], object],
) -> _Brought:
    info, cache = found
    with running.reading(nar):
        batch = store.batch()
        batch.__enter__()
        try:
            ingested = _ingest(batch, nar, info, cache, running, count)
        except BaseException:
            batch.__exit__(None, None, None)
            raise
    return _Brought(batch, _path_info(info, ingested))


def _ingest(
    batch: Batch,
    nar: Nar | InfusedNar | UpdateNar,
    info: NarInfo,
    cache: BinaryCache,
    running: _Running,
    count: Callable[[int], object],
) -> Ingested:
    address = None if cache.trust.signer(info) or cache.trust.all else addressed(info)
    check = None
    if address and (address.method, address.hash.algo) != ("recursive", "sha256"):
        check = ContentCheck(info, address)
    read = _watched(nar.read, info, cache.name, running, count, check)
    reader = NarReader(read, subject=f"`{info.path}` from {cache.name}")
    # One thread of its own for large files would not pay beside the other NARs.
    ingested = ingest_nar(batch, reader, jobs=1)
    if read(1):
        raise _too_long(info, cache.name)
    if (ingested.nar_hash, ingested.nar_size) != (info.nar_hash, info.nar_size):
        stated, actual = (NixHash("sha256", one.nar_hash).sri() for one in (info, ingested))
        raise HashMismatch(
            f"`{info.path}` from {cache.name} has NAR hash {actual} ({ingested.nar_size} bytes),"
            f" but its narinfo says {stated} ({info.nar_size} bytes)",
            hint="nothing of it was kept",
        )
    if check:
        check.finish()
    return ingested


def _watched(
    read: Read,
    info: NarInfo,
    place: str,
    running: _Running,
    count: Callable[[int], object],
    check: ContentCheck | None,
) -> Read:
    left = info.nar_size

    def watched(size: int) -> bytes:
        nonlocal left
        if running.stopped:
            raise _Stopped
        data = read(size)
        left -= len(data)
        if left < 0:
            raise _too_long(info, place)
        count(len(data))
        if check:
            check.update(data)
        return data

    return watched


def _too_long(info: NarInfo, place: str) -> EkaError:
    return HashMismatch(
        f"`{info.path}` from {place} has more than the {info.nar_size} bytes that its narinfo says",
        hint="nothing of it was kept",
    )


def _path_info(info: NarInfo, ingested: Ingested) -> PathInfo:
    found = PathInfo(
        info.path,
        *ingested,
        info.references,
        info.deriver,
        info.signatures,
        info.ca,
    )
    # A signature says nothing about the content address: what is not true of it is not kept.
    return found._replace(ca=None) if wrong_ca(found) else found


class CacheNars:
    """What `repair` gets lost contents from; digests decide what of it is good, not signatures."""

    def __init__(self, substituter: Substituter) -> None:
        self._substituter = substituter

    def take(self, batch: Batch, info: PathInfo) -> None:
        """Raises ServiceError, NarError, HashMismatch; a path that no cache has is none of them."""
        found = self._substituter.look_up([info.path.hash]).get(info.path.hash)
        if found is None or found.info.nar_hash != info.nar_hash:
            return
        nar = found.cache.open_nar(found.info)
        if nar is None:
            return
        with closing(nar):
            _ingest(batch, nar, found.info, found.cache, _Running(), lambda size: None)


def missing(path: StorePath, substituter: Substituter, why: EkaError | None) -> EkaError:
    """The error for a path that the caches cannot give."""
    return why or PathNotFound(f"`{path}` is not in {substituter.name}")
