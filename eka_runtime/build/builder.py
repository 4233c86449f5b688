"""Builds one derivation: lays out its place, runs its bundle, takes in what it left.

    place ── lay out ──► bundle ── run ──► outputs ── read, scan, check ──► valid paths
                                    └──► log

Used from one thread per build. Out of scope: which derivation is built when (`scheduler.py`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from eka_runtime.build.builtins import run_builtin
from eka_runtime.build.checks import check_outputs
from eka_runtime.build.environment import Start, prepare
from eka_runtime.build.follow import follow
from eka_runtime.build.graph import StoreGraph
from eka_runtime.build.log import BuildLog
from eka_runtime.build.outputs import Outputs
from eka_runtime.build.sandbox import Sandboxes
from eka_runtime.build.settings import BuildSettings, job_count
from eka_runtime.build.spawn import Ended, Running, Spawner
from eka_runtime.build.task import BUILTIN, Task
from eka_runtime.build.workshop import Place, Workshop
from eka_runtime.errors import (
    BuildCancelled,
    BuilderFailed,
    EkaError,
    LaunchError,
    NotDeterministic,
)
from eka_runtime.runtime.host import Host
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.plan import ViewPlan

_LITTLE_SPACE = 8 << 20

Line = Callable[[bytes], object]


class Failure(Exception):
    """A build came to nothing: why, the end of its log, and where its bundle is kept."""

    def __init__(self, error: EkaError, tail: tuple[bytes, ...], kept: Path | None) -> None:
        super().__init__(str(error))
        self.error, self.tail, self.kept = error, tail, kept


class _Laid(NamedTuple):
    """A place in which everything is ready for its builder."""

    place: Place
    start: Start = Start((), {}, {})
    view: ViewPlan = ViewPlan("bind", (), ())


class Builder:
    """Those of one scheduler. A context manager, whose end is the end of all that run."""

    def __init__(self, store: Store, host: Host, settings: BuildSettings, state: Path) -> None:
        self._store, self._settings = store, settings
        self._workshop = Workshop(store)
        self._sandboxes = Sandboxes(store, self._workshop, host, settings, state)
        self._spawner = Spawner()
        self._guard = threading.Lock()
        self._running: set[Running] = set()
        self._cancelled = False

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *error: object) -> None:
        self._spawner.close()
        self._workshop.close()

    def cancel(self) -> None:
        """Ends what runs, and lets nothing begin any more; from any thread."""
        with self._guard:
            self._cancelled = True
            running = list(self._running)
        for one in running:
            one.kill()

    def build(self, task: Task, line: Line) -> dict[str, PathInfo]:
        """Its outputs, valid and by name; for a check, those of before.

        `line` gets the log as it comes. Raises Failure.
        """
        laid = _Laid(self._workshop.place())
        with BuildLog(self._store, task.path, line, laid.place.log) as log:
            try:
                if task.drv.builder.startswith(BUILTIN):
                    run_builtin(self._store, task, laid.place.store, self._settings)
                else:
                    laid = self._lay_out(task, laid.place)
                    self._run(task, laid, log)
                return self._take(task, laid.place)
            except EkaError as error:
                kept = self._keep(task, laid) if self._settings.keep_failed else None
                raise Failure(error, tuple(log.tail), kept) from error
            finally:
                self._workshop.clear(laid.place)

    def _lay_out(self, task: Task, place: Place) -> _Laid:
        graph = StoreGraph(self._store, frozenset(info.path for info in task.inputs))
        start = prepare(
            task.drv,
            task.outputs,
            graph,
            cores=self._settings.cores or job_count(),
            impure=self._settings.environ,
        )
        return _Laid(place, start, self._sandboxes.lay_out(place, start, task.inputs))

    def _run(self, task: Task, laid: _Laid, log: BuildLog) -> None:
        bundle = self._sandboxes.compile(task, *laid)
        plan = self._sandboxes.plan(bundle)
        running = self._spawner.start(plan, laid.start.arg_bytes(), laid.start.env_bytes())
        try:
            self._enlist(running)
            ended = follow(task.path, running, log, self._settings)
        except BaseException:
            running.kill()
            running.wait()
            raise
        finally:
            with self._guard:
                self._running.discard(running)
            os.close(running.output)
        self._judge(task, ended, laid.place, log)

    def _enlist(self, running: Running) -> None:
        with self._guard:
            self._running.add(running)
            if self._cancelled:
                raise BuildCancelled("the build was interrupted")

    def _judge(self, task: Task, ended: Ended, place: Place, log: BuildLog) -> None:
        if self._cancelled and ended.status:
            raise BuildCancelled(f"building of `{task.path}` was interrupted")
        if not ended.started:
            said = b"\n".join(log.tail).decode("utf-8", "replace")
            raise LaunchError(f"the bundle of `{task.path}` could not be started: {said}")
        if not ended.status:
            return
        how = f"failed with exit code {ended.status}"
        if ended.status < 0:
            name = signal.strsignal(-ended.status) or "unknown"
            how = f"failed due to signal {-ended.status} ({name})"
        disk = os.statvfs(place.root)
        note = ""
        if disk.f_bavail * disk.f_frsize < _LITTLE_SPACE:
            note = "\nnote: the disk is nearly full, which may be the reason"
        raise BuilderFailed(f"builder for `{task.path}` {how}{note}")

    def _take(self, task: Task, place: Place) -> dict[str, PathInfo]:
        # Whom a builder reaches, it may have given what it has open for writing.
        adopt = not task.reaches_host
        with Outputs(self._store, task.path, task.drv, adopt=adopt) as outputs:
            inputs = [info.path for info in task.inputs]
            infos = outputs.read(place.store, task.outputs, inputs)
            if outputs.wrong is None:
                check_outputs(self._store, task.attributes, infos)
            if task.check:
                return self._compare(task, infos)
            if adopt or not self._settings.keep_failed:
                # The commit waits for the disk, which need not see what goes anyway. And what is
                # kept can be written to: there must be no links in it to what may be valid by then.
                self._workshop.clear(place)
            outputs.commit(infos.values())
            if outputs.wrong is not None:
                raise outputs.wrong
        return {name: self._store.info(info.path) for name, info in infos.items()}

    def _compare(self, task: Task, infos: dict[str, PathInfo]) -> dict[str, PathInfo]:
        for name, info in infos.items():
            known = self._store.paths.get(info.path)
            if known is None or known.nar_hash != info.nar_hash:
                raise NotDeterministic(
                    f"derivation `{task.path}` may not be deterministic: building it again gave"
                    f" another output `{name}`, `{info.path}`",
                    hint="with `--keep-failed` what was built now is kept, to be compared",
                )
        return infos

    def _keep(self, task: Task, laid: _Laid) -> Path | None:
        """The bundle of a failed build, to be run or entered again."""
        if not laid.start.args or not laid.place.root.exists():
            return None
        kept = self._workshop.keep(laid.place, task.drv.name)
        bundle = self._sandboxes.compile(task, kept, laid.start, laid.view)
        self._sandboxes.write_kept(bundle, kept, [info.path for info in task.inputs])
        return kept.root
