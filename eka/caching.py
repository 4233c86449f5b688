"""Binary caches for commands: which are in force, opening them, and fetching with progress.

Out of scope: when a path is looked for in caches (`fetching.py`, the commands).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eka.output import Output, human_size
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

if TYPE_CHECKING:
    from eka.config import Settings
    from eka_runtime.cache.access import Access
    from eka_runtime.cache.settings import CacheSettings
    from eka_runtime.cache.substituter import Plan, Substituter
    from eka_runtime.store.addresses import Addresses
    from eka_runtime.store.composition import Services


def caches_in_force(settings: Settings, *, offline: bool = False) -> CacheSettings:
    """With `offline`, only those on this host. Raises ConfigError."""
    from eka_runtime.cache.settings import in_force

    found = in_force(os.environ, settings.caches)
    if offline:
        local = tuple(url for url in found.substituters if url.startswith("file:"))
        return found._replace(substituters=local)
    return found


def access_of(caches: CacheSettings) -> Access:
    from eka_runtime.cache.access import Access

    return Access(os.environ, caches.netrc_file, caches.certificates)


@contextmanager
def open_caches(caches: CacheSettings, output: Output) -> Iterator[Substituter]:
    """Raises as `open_substituter`."""
    from eka_runtime.cache.substituter import open_substituter

    with open_substituter(caches, access_of(caches), answers_file(), output.warning) as opened:
        yield opened


def answers_file() -> Path:
    """Where it is kept what caches have answered."""
    from eka.config import cache_dir

    return cache_dir(os.environ) / "binary-caches.sqlite"


def describe(plan: Plan) -> str:
    """How much it is, and from where: `12 paths (34.0 MiB, 120.0 MiB unpacked) from URL`."""
    count = len(plan.found)
    paths = f"{count} path" + ("" if count == 1 else "s")
    names = ", ".join(dict.fromkeys(found.cache.name for found in plan.found))
    unpacked = human_size(plan.nar_size)
    size = f"{human_size(plan.file_size)}, {unpacked} unpacked" if plan.file_size else unpacked
    return f"{paths} ({size}) from {names}"


def fetch_plan(
    store: Store,
    caches: Substituter,
    plan: Plan,
    output: Output,
    each: Callable[[PathInfo], object] = lambda info: None,
    services: Addresses | None = None,
) -> None:
    """Raises as `fetch`; what `each` got is valid.

    `services` are the far ones in force, for narinfos that name castore nodes.
    """
    from eka_runtime.cache.fetch import fetch

    with (
        _castore(plan, services) as castore,
        output.progress("fetching", total=len(plan.found)) as update,
    ):
        fetch(
            store,
            caches,
            plan.found,
            each=each,
            progress=update,
            warn=output.warning,
            castore=castore,
        )


@contextmanager
def _castore(plan: Plan, addresses: Addresses | None) -> Iterator[Services | None]:
    """The far services, if there are any, and a use for them."""
    from eka_runtime.cache.infused import infused_node

    if addresses is None or not any(infused_node(found.info.url) for found in plan.found):
        yield None
        return
    from eka_runtime.store.composition import open_services

    with open_services(addresses) as opened:
        yield opened
