"""What has to be done so that some outputs are there: what is valid, what can be fetched, and what
must be built, down to inputs that are there.

Asked level by level from the wanted outputs downwards, so that of a graph only as much is looked at
as is missing. A fetch that fails turns into a build. Nothing is built here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from eka_runtime.build.derivations import read_derivation
from eka_runtime.errors import BuildRefused, FormatError
from eka_runtime.nix.derivation import Derivation
from eka_runtime.nix.outputs import Modulos
from eka_runtime.nix.path import StorePath
from eka_runtime.store.realisations import Realisations
from eka_runtime.store.store import Store


class Substitutes(Protocol):
    """Places that have paths ready-made; see `eka_runtime.cache`."""

    def available(self, paths: Sequence[StorePath]) -> Collection[StorePath]:
        """Which of them could be fetched, with all that they refer to."""

    def fetch(self, paths: Sequence[StorePath]) -> None:
        """Makes as many of them valid as it can; failures are only reported."""


class NoSubstitutes:
    """Nothing is fetched."""

    def available(self, paths: Sequence[StorePath]) -> Collection[StorePath]:
        return ()

    def fetch(self, paths: Sequence[StorePath]) -> None:
        return


class Wanted(dict[StorePath, set[str]]):
    """Output names by derivation."""

    def add(self, path: StorePath, outputs: Iterable[str]) -> None:
        self.setdefault(path, set()).update(outputs)


class Goal:
    """A derivation of which something is wanted. `outputs` are those that are known to be valid."""

    def __init__(self, path: StorePath, drv: Derivation) -> None:
        self.path, self.drv = path, drv
        self.wanted: set[str] = set()
        self.outputs: dict[str, StorePath] = {}
        self.build = False
        self.waits_for: set[StorePath] = set()
        self.needed_by: set[StorePath] = set()


class Goals:
    """The goals of one scheduler, by the paths of their derivations."""

    def __init__(self, store: Store, substitutes: Substitutes) -> None:
        self.store = store
        self.modulos = Modulos(self.read)
        self.goals: dict[StorePath, Goal] = {}
        self.fetched: list[StorePath] = []
        self._substitutes = substitutes
        self._realisations = Realisations(store.database)
        self._drvs: dict[StorePath, Derivation] = {}
        self._believed: set[StorePath] = set()

    def read(self, path: StorePath) -> Derivation:
        """Raises PathNotFound and FormatError."""
        if path not in self._drvs:
            if self.store.paths.get(path) is None:
                self._substitutes.fetch([path])
            self._drvs[path] = read_derivation(self.store, path)
        return self._drvs[path]

    def believe(self, path: StorePath, drv: Derivation) -> None:
        """A derivation without input derivations, as trusted clients send them: where its outputs
        go cannot be checked."""
        self._drvs[path] = drv
        self._believed.add(path)

    def ids(self, path: StorePath) -> Mapping[str, str]:
        """Those of realisations of its outputs."""
        return self.modulos.realisation_ids(self.read(path))

    def add(self, wanted: Mapping[StorePath, Iterable[str]], *, anew: bool = False) -> None:
        """Plans, and fetches what can be; with `anew`, the wanted ones are built in any case."""
        level = Wanted()
        for path, outputs in wanted.items():
            level.add(path, outputs)
        while level:
            level = self._settle([self._goal(path, level[path], anew) for path in level])
            anew = False

    def find_outputs(self, path: StorePath, drv: Derivation) -> dict[str, StorePath]:
        """Those that are valid."""
        found = {}
        for name, output in drv.outputs.items():
            place = output.store_path
            if place is None:
                place = self.realised(path, drv, name)
            if place is not None and self.store.paths.get(place) is not None:
                found[name] = place
        return found

    def realised(self, path: StorePath, drv: Derivation, output: str) -> StorePath | None:
        """What an output without a path of its own is known to have become."""
        if drv.impure:
            return None
        return self._realisations.get(self.modulos.realisation_ids(drv)[output])

    def record(self, drv: Derivation, outputs: Mapping[str, StorePath]) -> None:
        """Remembers what outputs without paths of their own have become."""
        if drv.impure or all(output.path for output in drv.outputs.values()):
            return
        ids = self.modulos.realisation_ids(drv)
        self._realisations.put({ids[name]: path for name, path in outputs.items()})

    def _goal(self, path: StorePath, outputs: Iterable[str], anew: bool) -> Goal:
        goal = self.goals.get(path)
        if goal is None:
            goal = self.goals[path] = Goal(path, self.read(path))
        names = set(outputs) or set(goal.drv.outputs)
        if strange := names.difference(goal.drv.outputs):
            raise FormatError(
                f"derivation `{path}` has no output `{min(strange)}`;"
                f" it has {', '.join(goal.drv.outputs)}"
            )
        goal.wanted |= names
        goal.outputs = self.find_outputs(path, goal.drv)
        if anew:
            self._need_build(goal)
        return goal

    def _settle(self, goals: list[Goal]) -> Wanted:
        """Fetches for some goals what can be; the rest must be built, and needs the next level."""
        missing = [goal for goal in goals if not goal.build and goal.wanted - goal.outputs.keys()]
        places = {goal.path: self._places(goal) for goal in missing}
        known = [path for paths in places.values() for path in paths if path is not None]
        available = set(self._substitutes.available(known)) if known else set()
        wishes = [path for path in dict.fromkeys(known) if path in available]
        if wishes:
            self._substitutes.fetch(wishes)
            self.fetched += [path for path in wishes if self.store.paths.get(path)]
        for goal in missing:
            goal.outputs = self.find_outputs(goal.path, goal.drv)
            if goal.wanted - goal.outputs.keys():
                self._need_build(goal)
        return self._next_level(goals)

    def _places(self, goal: Goal) -> list[StorePath | None]:
        names = sorted(goal.wanted - goal.outputs.keys())
        return [goal.drv.outputs[name].store_path for name in names]

    def _need_build(self, goal: Goal) -> None:
        goal.build = True
        if goal.path not in self._believed:
            self.modulos.check(goal.drv)

    def _next_level(self, goals: list[Goal]) -> Wanted:
        level, sources = Wanted(), list[StorePath]()
        for goal in goals:
            if not goal.build or goal.waits_for:
                continue
            sources += goal.drv.input_srcs
            for path, names in goal.drv.input_drvs.items():
                goal.waits_for.add(path)
                other = self.goals.get(path)
                if other is None or set(names) - other.wanted:
                    level.add(path, names)
        self._require(dict.fromkeys(sources))
        return level

    def _require(self, sources: Iterable[StorePath]) -> None:
        missing = [path for path in sources if self.store.paths.get(path) is None]
        if missing:
            self._substitutes.fetch(missing)
        for path in missing:
            if self.store.paths.get(path) is None:
                raise BuildRefused(
                    f"the input `{path}` is not in the store, and cannot be built",
                    hint="import the closure of the derivation"
                    " (`nix-store --export $(nix-store -qR DRV) | eka store import`)",
                )
