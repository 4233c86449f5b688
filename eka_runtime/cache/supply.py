"""Binary caches for a process that lives long and has many threads: a daemon, a builder.

Connections to the caches are shared by all; what one call learns of a cache that is out of reach is
forgotten after it. Nothing here raises for what caches cannot give or give wrongly: it is told, and
the path is not there. Errors of the store itself are raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eka_runtime.cache.access import Access
from eka_runtime.cache.answers import Answers
from eka_runtime.cache.fetch import fetch
from eka_runtime.cache.settings import CacheSettings
from eka_runtime.cache.substituter import Plan, Substituter, open_caches
from eka_runtime.errors import FormatError, HashMismatch, ServiceError, UntrustedError
from eka_runtime.nix.narinfo import NarInfo
from eka_runtime.nix.path import StorePath

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

CACHES_FAULT = (ServiceError, UntrustedError, HashMismatch, FormatError)
"""What a cache can do wrong; whoever can do without it goes on."""

Say = Callable[[str], object]


class Supply:
    """To be closed by its maker. Raises as `open_caches`."""

    def __init__(self, settings: CacheSettings, access: Access, answers: Path | None) -> None:
        self._answers = answers
        self._caches = open_caches(settings, access)

    def close(self) -> None:
        for cache in self._caches:
            cache.files.close()

    def find(self, paths: Iterable[StorePath], say: Say) -> dict[StorePath, NarInfo]:
        """Those that a cache has; whether all they refer to can be had is not asked."""
        wanted = {path.hash: path for path in paths}
        with self._substituter(say) as substituter:
            found = substituter.look_up(wanted).values()
        return {one.path: one.info for one in found if wanted[one.path.hash] == one.path}

    def plan(self, store: Store, paths: Sequence[StorePath], say: Say) -> Plan:
        """What would be fetched for these paths, none of which is valid."""
        with self._substituter(say) as substituter:
            return self._plan(substituter, store, paths, say)

    def bring(self, store: Store, paths: Iterable[StorePath], say: Say) -> list[StorePath]:
        """Makes as many of them valid as can be had, with their closures; returns all that came."""
        absent = [path for path in dict.fromkeys(paths) if store.paths.get(path) is None]
        came: list[StorePath] = []
        if not absent:
            return came
        with self._substituter(say) as substituter:
            plan = self._plan(substituter, store, absent, say)
            if plan.found:
                size = plan.file_size or plan.nar_size
                say(f"fetching {len(plan.found)} paths ({size} bytes) from {substituter.name}")
            try:
                fetch(
                    store,
                    substituter,
                    plan.found,
                    each=lambda info: came.append(info.path),
                    warn=say,
                )
            except CACHES_FAULT as error:
                say(str(error))
        return came

    def _plan(
        self, substituter: Substituter, store: Store, paths: Sequence[StorePath], say: Say
    ) -> Plan:
        try:
            plan = substituter.plan(store, {path.hash: _exactly(path) for path in paths})
        except CACHES_FAULT as error:
            say(str(error))
            return Plan([], {path.hash: error for path in paths})
        for trouble in filter(None, plan.absent.values()):
            say(str(trouble))
        return plan

    @contextmanager
    def _substituter(self, say: Say) -> Iterator[Substituter]:
        answers = Answers(self._answers)
        try:
            yield Substituter(self._caches, answers, say)
        finally:
            answers.close()


def _exactly(path: StorePath) -> Callable[[NarInfo], bool]:
    return lambda info: info.path == path
