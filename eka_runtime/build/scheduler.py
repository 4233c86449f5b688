"""Builds a graph of derivations: as many at once as allowed, each when its inputs are there.

One thread per build that runs; the calling thread decides what comes next and is the one that
Ctrl-C interrupts. One output is built by one process at a time: who comes second waits, and then
finds it valid. After a failure nothing new begins, and what runs is ended, unless `keep_going`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import NamedTuple, Protocol

from eka_runtime.build.attributes import Attributes
from eka_runtime.build.builder import Builder, Failure
from eka_runtime.build.derivations import write_derivation
from eka_runtime.build.goals import Goal, Goals, Substitutes
from eka_runtime.build.settings import Abilities, BuildSettings
from eka_runtime.build.task import Task, check_buildable, scratch_outputs
from eka_runtime.build.workshop import output_lock
from eka_runtime.errors import BuildCancelled, DependencyFailed, EkaError
from eka_runtime.nix.derivation import Derivation
from eka_runtime.nix.outputs import resolve
from eka_runtime.nix.path import StorePath
from eka_runtime.runtime.host import Host
from eka_runtime.store.store import Store


class Outcome(NamedTuple):
    """How it went with one derivation. `how` is valid, built or failed; times are Unix times."""

    path: StorePath
    how: str
    outputs: Mapping[str, StorePath]
    started: float = 0
    stopped: float = 0
    error: EkaError | None = None
    tail: tuple[bytes, ...] = ()
    kept: Path | None = None
    lost: tuple[StorePath, ...] = ()  # what now cannot be built, either
    ids: Mapping[str, str] = MappingProxyType({})  # of the outputs' realisations


_EFFECTS = (BuildCancelled, DependencyFailed)


def first_cause(failed: Sequence[Outcome]) -> Outcome:
    """Of one or more failures, that which explains the others."""
    causes = (one for one in failed if not isinstance(one.error, _EFFECTS))
    return next(causes, failed[0])


class Watch(Protocol):
    """Told of everything, some of it by other threads, several at a time."""

    def planned(self, builds: int) -> object: ...

    def started(self, drv: StorePath) -> object: ...

    def waits(self, drv: StorePath) -> object:
        """Another process builds the same."""

    def line(self, drv: StorePath, line: bytes) -> object:
        """Of the log, without its end."""

    def ended(self, outcome: Outcome) -> object: ...


class Scheduler:
    """For one set of wanted outputs; `realise` is called once."""

    def __init__(
        self,
        store: Store,
        host: Host,
        settings: BuildSettings,
        state: Path,
        substitutes: Substitutes,
        watch: Watch,
    ) -> None:
        self.goals = Goals(store, substitutes)
        self._store, self._host, self._settings = store, host, settings
        self._state, self._watch = state, watch
        self._events: SimpleQueue[Outcome] = SimpleQueue()
        self._outcomes: dict[StorePath, Outcome] = {}
        self._ready: list[StorePath] = []
        self._running: set[StorePath] = set()
        self._blocked: set[StorePath] = set()
        self._checked: frozenset[StorePath] = frozenset()
        self._cancelled = threading.Event()
        self._builder: Builder | None = None

    @property
    def capabilities(self) -> Abilities:
        """What it builds; anything else is refused."""
        return self._settings.abilities

    def realise(self, wanted: Mapping[StorePath, Iterable[str]]) -> dict[StorePath, Outcome]:
        """The outcome of each derivation that was looked at, the wanted ones among them.

        An empty collection of outputs stands for all. With `check` the wanted ones are built
        again. Raises what planning raises; failures of builds are outcomes.
        """
        self.goals.add(wanted)
        self._run()
        if self._settings.check and not self._failed():
            for path in wanted:
                del self._outcomes[path]
            self._checked = frozenset(wanted)
            self.goals.add(wanted, anew=True)
            self._run()
        for path in wanted:
            self._outcomes[path] = self._outcomes[path]._replace(ids=self.goals.ids(path))
        return self._outcomes

    def cancel(self) -> None:
        """From any thread: what runs ends, and with it `realise`."""
        self._cancelled.set()
        if self._builder is not None:
            self._builder.cancel()

    def _run(self) -> None:
        todo = self._link()
        self._watch.planned(len(todo))
        if not todo:
            return
        with Builder(self._store, self._host, self._settings, self._state) as self._builder:
            try:
                while self._ready or self._running:
                    self._start_some()
                    self._finish(self._events.get())
            except BaseException:
                self.cancel()
                # Who waits for another process cannot be woken, and has nothing to clean up.
                while self._running - self._blocked:
                    self._running.discard(self._events.get().path)
                raise
        self._builder = None
        for goal in todo:
            if goal.path not in self._outcomes:
                error = BuildCancelled(f"`{goal.path}` was not begun, since another build failed")
                self._outcomes[goal.path] = Outcome(goal.path, "failed", {}, error=error)

    def _link(self) -> list[Goal]:
        """Ties goals that are to be built to those that they wait for."""
        todo = []
        for path, goal in self.goals.goals.items():
            if path in self._outcomes:
                continue
            if not goal.build:
                self._outcomes[path] = Outcome(path, "valid", goal.outputs)
                continue
            todo.append(goal)
        for goal in todo:
            goal.waits_for = {path for path in goal.waits_for if path not in self._outcomes}
            for path in goal.waits_for:
                self.goals.goals[path].needed_by.add(goal.path)
            if not goal.waits_for:
                self._ready.append(goal.path)
        return todo

    def _start_some(self) -> None:
        while self._ready and len(self._running) < max(self._settings.max_jobs, 1):
            path = self._ready.pop(0)
            self._running.add(path)
            thread = threading.Thread(
                target=self._work, args=(self.goals.goals[path],), name="eka-build", daemon=True
            )
            thread.start()

    def _finish(self, outcome: Outcome) -> None:
        self._running.discard(outcome.path)
        if outcome.error is None:
            goal = self.goals.goals[outcome.path]
            goal.outputs = dict(outcome.outputs)
            for path in sorted(goal.needed_by):
                other = self.goals.goals[path]
                other.waits_for.discard(outcome.path)
                if not other.waits_for:
                    self._ready.append(path)
        else:
            outcome = outcome._replace(lost=self._lose(outcome))
            if not self._settings.keep_going:
                self._ready.clear()
                self.cancel()
        self._outcomes[outcome.path] = outcome
        self._watch.ended(outcome)

    def _lose(self, outcome: Outcome) -> tuple[StorePath, ...]:
        """Everything that waits for a failed derivation fails with it."""
        lost: dict[StorePath, None] = {}
        waiting = [outcome.path]
        while waiting:
            for path in sorted(self.goals.goals[waiting.pop()].needed_by):
                if path not in lost and path not in self._outcomes:
                    lost[path] = None
                    waiting.append(path)
        for path in lost:
            error = DependencyFailed(f"`{path}` needs `{outcome.path}`, which was not built")
            self._outcomes[path] = Outcome(path, "failed", {}, error=error)
        return tuple(lost)

    def _failed(self) -> bool:
        return any(outcome.error for outcome in self._outcomes.values())

    def _work(self, goal: Goal) -> None:
        """In a thread of its own; whatever happens, there is an outcome."""
        started = time.time()
        outcome = Outcome(goal.path, "failed", {}, started)
        try:
            how, outputs = self._realise(goal)
            outcome = outcome._replace(how=how, outputs=outputs)
        except Failure as failure:
            outcome = outcome._replace(error=failure.error, tail=failure.tail, kept=failure.kept)
        except EkaError as error:
            outcome = outcome._replace(error=error)
        except BaseException as error:
            outcome = outcome._replace(error=EkaError(f"a bug in eka: {error!r}"))
            raise
        finally:
            self._events.put(outcome._replace(stopped=time.time()))

    def _realise(self, goal: Goal) -> tuple[str, dict[str, StorePath]]:
        drv, path = goal.drv, goal.path
        # Floating ones always, so that equal inputs of whatever origin give one output.
        if drv.input_drvs and (drv.floating or any(map(self._floats, drv.input_drvs))):
            drv = resolve(drv, self._built)
            path = write_derivation(self._store, drv)
        with self._locked(goal, min(scratch_outputs(path, drv).values())):
            found = self.goals.find_outputs(path, drv)
            if set(found) == set(drv.outputs) and goal.path not in self._checked:
                self._record(goal, drv, found)
                return "valid", found
            return "built", self._build(goal, path, drv)

    def _build(self, goal: Goal, path: StorePath, drv: Derivation) -> dict[str, StorePath]:
        attributes = Attributes.of(drv)
        check_buildable(path, drv, attributes, self._settings)
        wanted = {*drv.input_srcs, *(self._built(*one) for one in _inputs(drv))}
        inputs = tuple(self._store.info(one) for one in self._store.closure(wanted))
        self._store.paths.touch(info.path for info in inputs)
        task = Task(
            path,
            drv,
            attributes,
            inputs,
            scratch_outputs(path, drv),
            goal.path in self._checked,
        )
        self._watch.started(goal.path)
        builder = self._builder
        if builder is None:
            raise BuildCancelled(f"building of `{path}` was interrupted")
        infos = builder.build(task, lambda line: self._watch.line(goal.path, line))
        outputs = {name: info.path for name, info in infos.items()}
        self._record(goal, drv, outputs)
        return outputs

    def _record(self, goal: Goal, drv: Derivation, outputs: Mapping[str, StorePath]) -> None:
        self.goals.record(goal.drv, outputs)
        if drv is not goal.drv:
            self.goals.record(drv, outputs)

    def _floats(self, path: StorePath) -> bool:
        return any(not output.path for output in self.goals.read(path).outputs.values())

    def _built(self, path: StorePath, output: str) -> StorePath:
        """What an output of an input came to."""
        return self.goals.goals[path].outputs[output]

    @contextmanager
    def _locked(self, goal: Goal, output: StorePath) -> Iterator[None]:
        with output_lock(self._store, output.hash, wait=False) as mine:
            if mine:
                self._go_on(goal)
                yield
                return
        self._watch.waits(goal.path)
        self._blocked.add(goal.path)
        with output_lock(self._store, output.hash):
            self._blocked.discard(goal.path)
            self._go_on(goal)
            yield

    def _go_on(self, goal: Goal) -> None:
        if self._cancelled.is_set():
            raise BuildCancelled(f"building of `{goal.path}` was interrupted")


def _inputs(drv: Derivation) -> Iterator[tuple[StorePath, str]]:
    for path, names in drv.input_drvs.items():
        for name in names:
            yield path, name
