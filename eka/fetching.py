"""What a run can have: the store, and what far services and binary caches can add to it.

A path that is in the store costs nothing here: no configuration is read, nothing is imported,
nobody is asked. Only for one that is not are the far services looked up, and after them the binary
caches; the path is copied with its closure before it is used, by a process of its own (`apart.py`).
With `lazy`, what can be is only promised, and comes while it is used (`promising.py`).
Out of scope: which those are (`eka_runtime.store.addresses`, `eka_runtime.cache.settings`), and how
paths come (`eka_runtime.store.incoming`, `eka_runtime.cache.fetch`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eka.output import Output, human_size
from eka_runtime.errors import (
    ConfigError,
    EkaError,
    PathNotFound,
    ServiceError,
    UntrustedError,
)
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

if TYPE_CHECKING:
    from eka.config import Settings
    from eka.evaluate.config import Choices
    from eka.evaluate.installing import Installed
    from eka.lazy import Promise
    from eka.script.scan import Candidate
    from eka_runtime.cache.settings import CacheSettings
    from eka_runtime.nix.narinfo import NarInfo
    from eka_runtime.store.addresses import Addresses
    from eka_runtime.store.composition import Services

Check = Callable[["PathInfo | NarInfo", str], None]

# UsageError, ConfigError and ServiceError.
_CANNOT_ASK = (2, 11, 28)


class Reach:
    """With `offline` nothing is ever fetched.

    `choices` is the configuration for atoms that are named, None for their own; `installed` is
    what they turned out to be. `promised` are paths, with their closures, of which a lazy start has
    the directories only. `obstacle` says why this host starts nothing lazily; without it nobody
    starts anything here.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        output: Output,
        *,
        offline: bool,
        lazy: bool = False,
        obstacle: Callable[[], str] | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.output = output
        self.offline = offline
        self._lazy = lazy
        self._obstacle = obstacle
        self.promised: dict[StorePath, PathInfo] = {}
        self.promised_by: dict[str, None] = {}  # binary caches, by name
        self.choices: Choices | None = None
        self.installed: list[Installed] = []
        self._asked: set[StorePath] = set()
        self._expected: Check | None = None

    def install(self, text: str, origin: str, base: Path) -> Installed:
        """An atom or expression as a package, built if need be. Raises what that raises."""
        from eka.evaluate.installing import install

        found = install(text, origin, base, self)
        self.installed.append(found)
        return found

    def prefer_lazy(self) -> None:
        """From now on what a start needs is promised, if something is started, and can be so."""
        self._lazy = self._obstacle is not None

    def _can_be_lazy(self) -> bool:
        problem = self._obstacle() if self._lazy and self._obstacle else ""
        if problem:
            self._lazy = False
            self.output.warning(f"everything is fetched before the start: {problem}")
        return self._lazy

    def warn(self, text: str) -> None:
        self.output.warning(text)

    def expect(self, check: Check) -> None:
        """Nothing is fetched any more that `check`, given an info and its place, raises for."""
        self._expected = check

    def info(self, path: StorePath) -> PathInfo:
        """Raises PathNotFound when it is nowhere, and what fetching raises."""
        self.fetch([path])
        if path in self.promised:
            return self.promised[path]
        try:
            return self.store.info(path)
        except PathNotFound as error:
            raise self._not_found(path, error) from error

    def by_hash(self, digits: str) -> StorePath | None:
        """The path with that hash part that is valid or promised."""
        info = self.store.paths.by_hash(digits)
        if info is not None:
            return info.path
        return next((path for path in self.promised if path.hash == digits), None)

    def closure(self, paths: Iterable[StorePath]) -> dict[StorePath, PathInfo]:
        """Of paths that are valid or promised."""
        if self.promised:
            from eka.lazy import as_promised

            return as_promised(self.store, self.promised, paths)
        return {path: self.store.info(path) for path in self.store.closure(paths)}

    def fetch(self, paths: Iterable[StorePath]) -> None:
        """Makes those valid that others have and the store has not, with their closures.

        Those that nobody has are no error here. Raises ServiceError, UsageError or ConfigError for
        places that cannot be used, UntrustedError for what nobody trusted has signed, and what
        fetching raises.
        """
        absent = {path for path in paths if self.store.paths.get(path) is None}
        absent -= self._asked | self.promised.keys()
        if absent:
            self._fetch({path.hash: path for path in sorted(absent)})
            self._asked |= absent

    def fetch_mentioned(self, candidates: Iterable[Candidate], *, required: bool) -> None:
        """As `fetch`, for mentions in a file, which may go on behind the name of the path.

        Unless they are `required`, a service that cannot be reached is a warning.
        """
        try:
            # Of several mentions the longest surely has the whole name.
            mentions = sorted(candidates, key=lambda one: len(one.text))
            self._fetch({one.hash: StorePath(one.hash, one.text) for one in mentions})
        except (ServiceError, UntrustedError) as error:
            if required:
                raise
            self.output.warning(str(error))

    def _fetch(self, wanted: Mapping[str, StorePath]) -> None:
        """`wanted` has at least the name of each, by hash."""
        if self.offline:
            return
        try:
            if places := self._places():
                from eka.apart import run_apart

                check = self._expected
                # What a lock says of contents can only be checked when all of them are here.
                if check is None and self._can_be_lazy():
                    wanted = self._promise(places, wanted)
                if wanted:
                    run_apart(lambda: _fetch(self.store, places, wanted, self.output, check))
        except EkaError as error:
            if error.exit_code not in _CANNOT_ASK:
                raise
            subject = next(iter(wanted.values()))
            raise type(error)(
                f"`{subject}` is not in the store, and cannot be fetched: {error}", hint=error.hint
            ) from error

    def _promise(self, places: _Places, wanted: Mapping[str, StorePath]) -> Mapping[str, StorePath]:
        """What is neither promised nor valid after that."""
        from eka.promising import from_caches, from_services

        if places.addresses:
            self._take(from_services(self.store, places.addresses, wanted, self.output))
            wanted = self._lacking(wanted)
        if places.caches.substituters and wanted:
            self._take(from_caches(self.store, places.caches, wanted, self.output))
            wanted = self._lacking(wanted)
        return wanted

    def _take(self, promise: Promise) -> None:
        # What was promised first stays as it was, and before what refers to it.
        for path, info in promise.infos.items():
            self.promised.setdefault(path, info)
        self.promised_by.update(dict.fromkeys(promise.caches))

    def _lacking(self, wanted: Mapping[str, StorePath]) -> Mapping[str, StorePath]:
        promised = {path.hash for path in self.promised}
        return {
            digits: path
            for digits, path in wanted.items()
            if digits not in promised and self.store.paths.by_hash(digits) is None
        }

    def _places(self) -> _Places | None:
        from eka.caching import caches_in_force
        from eka_runtime.store.addresses import configured

        places = _Places(
            configured(os.environ, self.settings.services), caches_in_force(self.settings)
        )
        return places if places.addresses or places.caches.substituters else None

    def _not_found(self, path: StorePath, error: PathNotFound) -> PathNotFound:
        try:
            places = self._places()
        except ConfigError:
            # Only under --offline, where nobody would have been asked in any case.
            return error
        if places is None:
            return PathNotFound(
                str(error), hint=f"{error.hint}, or name a binary cache: {_NAME_IT}"
            )
        if self.offline:
            hint = f"without `--offline` it would be looked for in {places}"
            return PathNotFound(str(error), hint=hint)
        return PathNotFound(
            f"`{path}` is neither in the store `{self.store.root}` nor in {places}",
            hint="check the spelling, or bring it there with `eka store copy --to URL PATH`",
        )


_NAME_IT = "`substituters` in the table [caches] of eka.toml, or EKA_SUBSTITUTERS"


class _Places(NamedTuple):
    """Where to look, in this order."""

    addresses: Addresses | None
    caches: CacheSettings

    def __str__(self) -> str:
        return ", ".join(str(place) for place in self if str(place or ""))


def _fetch(
    store: Store,
    places: _Places,
    wanted: Mapping[str, StorePath],
    output: Output,
    check: Check | None,
) -> None:
    # The caller's connections to its database must not be used in another process.
    with Store.open(store.root) as here:
        if places.addresses:
            _from_services(here, places.addresses, wanted, output, check)
            wanted = {
                digits: path
                for digits, path in wanted.items()
                if here.paths.by_hash(digits) is None
            }
        if places.caches.substituters and wanted:
            _from_caches(here, places.caches, wanted, output, check, places.addresses)


def _from_services(
    store: Store,
    addresses: Addresses,
    wanted: Mapping[str, StorePath],
    output: Output,
    check: Check | None,
) -> None:
    from eka_runtime.store.composition import open_services
    from eka_runtime.store.incoming import copy_from

    with open_services(addresses) as far:
        infos = missing(store, far, wanted)
        if check:
            for info in infos:
                check(info, far.name)
        if infos:
            size = human_size(sum(info.nar_size for info in infos))
            output.message(f"fetching {counted(len(infos))} ({size}) from {far.name}")
            with output.progress("fetching", total=len(infos)) as update:
                copy_from(store, far, infos, progress=update)


def missing(store: Store, far: Services, wanted: Mapping[str, StorePath]) -> list[PathInfo]:
    """What services have of what is wanted, with closures, and the store has not."""
    from eka_runtime.store.copying import missing_here

    return missing_here(store, far, _look_up(far, wanted))


def _look_up(far: Services, wanted: Mapping[str, StorePath]) -> list[StorePath]:
    from eka_runtime.store.copying import threads

    with threads() as pool:
        found = pool.map(far.paths.by_hash, wanted)
        return [
            info.path
            for info, path in zip(found, wanted.values(), strict=True)
            if info is not None and path.name.startswith(info.path.name)
        ]


def _from_caches(
    store: Store,
    settings: CacheSettings,
    wanted: Mapping[str, StorePath],
    output: Output,
    check: Check | None,
    services: Addresses | None,
) -> None:
    from eka.caching import describe, fetch_plan, open_caches

    with open_caches(settings, output) as caches:
        plan = caches.plan(store, {d: named_like(path) for d, path in wanted.items()})
        if check:
            for found in plan.found:
                check(found.info, found.cache.name)
        # After the lock had its say, which is more to the point.
        if trouble := next(filter(None, plan.absent.values()), None):
            raise trouble
        if plan.found:
            output.message(f"fetching {describe(plan)}")
            fetch_plan(store, caches, plan, output, services=services)


def named_like(path: StorePath) -> Callable[[NarInfo], bool]:
    """Whether a name may be that of the path, of which something behind the name may be known."""
    return lambda info: path.name.startswith(info.path.name)


def counted(paths: int) -> str:
    return f"{paths} path" + ("" if paths == 1 else "s")
