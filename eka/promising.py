"""What a lazy start may rely on before it is here, and where that comes from then.

Far services know the castore node of a path. A binary cache may say it in the narinfo
(`EkaCastore`), and counts where a trusted key has signed that; what else its closure needs is
fetched at once, in the usual way. Whatever is wrong with the directories of a cache, it has NARs as
well. How promises are kept: `lazy.py`, `attendant.py`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from eka.fetching import counted, missing, named_like
from eka.lazy import Looked, Promise, promise
from eka.output import Output, human_size
from eka_runtime.errors import FormatError, HashMismatch, ServiceError, StoreCorrupt
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

if TYPE_CHECKING:
    from eka.config import Settings
    from eka_runtime.cache.settings import CacheSettings
    from eka_runtime.cache.substituter import Found, Substituter
    from eka_runtime.castore.node import Node
    from eka_runtime.castore.services import BlobService, DirectoryTrees
    from eka_runtime.store.addresses import Addresses
    from eka_runtime.store.composition import Services
    from eka_runtime.store.copying import KnownPaths, Source
    from eka_runtime.store.several import Several

_CACHES_FAULT = (ServiceError, FormatError, HashMismatch, StoreCorrupt)


def from_services(
    store: Store, addresses: Addresses, wanted: Mapping[str, StorePath], output: Output
) -> Promise:
    """What far services have of it. Raises what they raise."""
    from eka_runtime.store.composition import open_services

    def look_up(here: Store, far: Services) -> Looked:
        infos = missing(here, far, wanted)
        if infos:
            output.message(_starting(infos, far.name))
        return Looked(infos)

    return promise(store, lambda: open_services(addresses), look_up)


def from_caches(
    store: Store, settings: CacheSettings, wanted: Mapping[str, StorePath], output: Output
) -> Promise:
    """What binary caches have of it, and can be believed before the NARs came.

    The rest of a closure of which some is promised is valid after that. Where nothing is, why not
    is for the usual fetch to find out.
    """
    from eka_runtime.cache.castore_in import CacheSource

    def look_up(here: Store, far: _Caches) -> Looked:
        plan = far.caches.plan(here, {d: named_like(path) for d, path in wanted.items()})
        if any(plan.absent.values()):
            return Looked([])
        first, later = _divided(plan.found)
        if first and later:
            _fetch(here, far.caches, first, output)
        caches = dict.fromkeys(found.cache for found, _ in later)
        far.places += [CacheSource.of(cache.files) for cache in caches]
        return Looked([info for _, info in later], tuple(cache.name for cache in caches))

    try:
        promised = promise(store, lambda: _opened(settings, output), look_up)
    except _CACHES_FAULT as error:
        output.warning(f"everything is fetched before the start: {error}")
        return Promise({})
    if promised.infos:
        output.message(_starting(promised.infos.values(), ", ".join(promised.caches)))
    return promised


@contextmanager
def open_far(settings: Settings, caches: Sequence[str]) -> Iterator[Source]:
    """Where contents of promised paths come from: caches by name, then the services in force.

    Raises as `open_caches` and `open_services`.
    """
    from eka.caching import access_of, caches_in_force
    from eka_runtime.cache.castore_in import CacheSource
    from eka_runtime.cache.substituter import open_caches
    from eka_runtime.store.addresses import configured
    from eka_runtime.store.composition import open_services
    from eka_runtime.store.several import Several

    with ExitStack() as resources:
        places: list[Source] = []
        if caches:
            in_force = caches_in_force(settings)
            for cache in open_caches(in_force, access_of(in_force)):
                resources.callback(cache.files.close)
                if cache.name in caches:
                    places.append(CacheSource.of(cache.files))
        if addresses := configured(os.environ, settings.services):
            places.append(resources.enter_context(open_services(addresses)))
        yield places[0] if len(places) == 1 else Several.of(places)


class _Caches:
    """A Source of what the caches in `places` have, which are known when they were looked up."""

    def __init__(self, caches: Substituter) -> None:
        self.caches = caches
        self.places: list[Source] = []

    @property
    def name(self) -> str:
        return self._several.name

    @property
    def blobs(self) -> BlobService:
        return self._several.blobs

    @property
    def directories(self) -> DirectoryTrees:
        return self._several.directories

    @property
    def paths(self) -> KnownPaths:
        return self._several.paths

    @property
    def _several(self) -> Several:
        from eka_runtime.store.several import Several

        return Several.of(self.places)


@contextmanager
def _opened(settings: CacheSettings, output: Output) -> Iterator[_Caches]:
    from eka.caching import open_caches

    with open_caches(settings, output) as caches:
        yield _Caches(caches)


class _Later(NamedTuple):
    found: Found
    info: PathInfo


def _divided(plan: Sequence[Found]) -> tuple[list[Found], list[_Later]]:
    """What has to be fetched at once, and what can be promised; references first, as given."""
    nodes = {one.path: one.cache.trust.node(one.info) for one in plan}
    at_once: set[StorePath] = set()
    for one in reversed(plan):
        if nodes[one.path] is None or one.path in at_once:
            # A path is valid only when all it refers to is.
            at_once |= {one.path, *one.info.references}
    later = []
    for one in plan:
        node = nodes[one.path]
        if node is not None and one.path not in at_once:
            later.append(_Later(one, _path_info(one, node)))
    return [one for one in plan if one.path in at_once], later


def _path_info(found: Found, node: Node) -> PathInfo:
    info = found.info
    return PathInfo(
        info.path,
        node,
        info.nar_hash,
        info.nar_size,
        info.references,
        info.deriver,
        info.signatures,
        info.ca,
    )


def _fetch(store: Store, caches: Substituter, found: list[Found], output: Output) -> None:
    from eka.caching import describe, fetch_plan
    from eka_runtime.cache.substituter import Plan

    plan = Plan(found, {})
    output.message(f"fetching {describe(plan)}")
    fetch_plan(store, caches, plan, output)


def _starting(infos: Collection[PathInfo], place: str) -> str:
    size = human_size(sum(info.nar_size for info in infos))
    return f"starting before {counted(len(infos))} ({size}) came from {place}"
