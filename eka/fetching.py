"""What a run can have: the store, and what configured far services can add to it.

A path that is in the store costs nothing here: no configuration is read, nothing is imported,
nobody is asked. Only for one that is not are the far services looked up, and the path is copied
with its closure before it is used, by a process of its own (`apart.py`). Out of scope: which
services those are (`eka_runtime.store.addresses`), how paths come (`eka_runtime.store.incoming`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from eka.output import Output, human_size
from eka_runtime.errors import ConfigError, EkaError, PathNotFound, ServiceError
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

if TYPE_CHECKING:
    from eka.script.scan import Candidate
    from eka_runtime.store.addresses import Addresses
    from eka_runtime.store.composition import Services

Check = Callable[[PathInfo, str], None]

# UsageError, ConfigError and ServiceError.
_CANNOT_ASK = (2, 11, 28)


class Reach:
    """`services` is the table of that name in eka.toml; with `offline` nothing is ever fetched."""

    def __init__(
        self, store: Store, services: Mapping[str, str], output: Output, *, offline: bool
    ) -> None:
        self.store = store
        self._table = services
        self._output = output
        self._offline = offline
        self._asked: set[StorePath] = set()
        self._expected: Check | None = None

    def warn(self, text: str) -> None:
        self._output.warning(text)

    def expect(self, check: Check) -> None:
        """Nothing is fetched any more that `check`, given an info and its place, raises for."""
        self._expected = check

    def info(self, path: StorePath) -> PathInfo:
        """Raises PathNotFound when it is nowhere, and what fetching raises."""
        self.fetch([path])
        try:
            return self.store.info(path)
        except PathNotFound as error:
            raise self._not_found(path, error) from error

    def fetch(self, paths: Iterable[StorePath]) -> None:
        """Makes those valid that far services have and the store has not, with their closures.

        Those that nobody has are no error here. Raises ServiceError, UsageError or ConfigError for
        services that cannot be used, and what `copy_from` raises.
        """
        absent = {path for path in paths if self.store.paths.get(path) is None} - self._asked
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
        except ServiceError as error:
            if required:
                raise
            self._output.warning(str(error))

    def _fetch(self, wanted: Mapping[str, StorePath]) -> None:
        """`wanted` has at least the name of each, by hash."""
        if self._offline:
            return
        try:
            if addresses := self._addresses():
                from eka.apart import run_apart

                check = self._expected
                run_apart(lambda: _fetch(self.store, addresses, wanted, self._output, check))
        except EkaError as error:
            if error.exit_code not in _CANNOT_ASK:
                raise
            subject = next(iter(wanted.values()))
            raise type(error)(
                f"`{subject}` is not in the store, and cannot be fetched: {error}", hint=error.hint
            ) from error

    def _addresses(self) -> Addresses | None:
        from eka_runtime.store.addresses import configured

        return configured(os.environ, self._table)

    def _not_found(self, path: StorePath, error: PathNotFound) -> PathNotFound:
        try:
            addresses = self._addresses()
        except ConfigError:
            # Only under --offline, where nobody would have been asked in any case.
            return error
        if addresses is None:
            return error
        if self._offline:
            hint = f"without `--offline` it would be looked for in {addresses}"
            return PathNotFound(str(error), hint=hint)
        return PathNotFound(
            f"`{path}` is neither in the store `{self.store.root}` nor in {addresses}",
            hint="check the spelling, or bring it there with `eka store copy --to URL PATH`",
        )


def _fetch(
    store: Store,
    addresses: Addresses,
    wanted: Mapping[str, StorePath],
    output: Output,
    check: Check | None,
) -> None:
    from eka_runtime.store.composition import open_services
    from eka_runtime.store.copying import missing_here
    from eka_runtime.store.incoming import copy_from

    # The caller's connections to its database must not be used in another process.
    with Store.open(store.root) as here, open_services(addresses) as far:
        infos = missing_here(here, far, _look_up(far, wanted))
        if check:
            for info in infos:
                check(info, far.name)
        if infos:
            size = human_size(sum(info.nar_size for info in infos))
            output.message(f"fetching {counted(len(infos))} ({size}) from {far.name}")
            with output.progress("fetching", total=len(infos)) as update:
                copy_from(here, far, infos, progress=update)


def _look_up(far: Services, wanted: Mapping[str, StorePath]) -> list[StorePath]:
    from eka_runtime.store.copying import threads

    with threads() as pool:
        found = pool.map(far.paths.by_hash, wanted)
        return [
            info.path
            for info, path in zip(found, wanted.values(), strict=True)
            if info is not None and path.name.startswith(info.path.name)
        ]


def counted(paths: int) -> str:
    return f"{paths} path" + ("" if paths == 1 else "s")
