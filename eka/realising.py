"""Makes the targets of `eka build` real: what they name, the build itself, links to what came out.

A target is a derivation in the store, `/nix/store/….drv`, alone or with some of its outputs,
`….drv^out,dev` (`!` does as well), an atom or expression (`.`, `.#attr`, `FILE.nix`, a URI), or any
other store path, which is there or fetched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eka.building import Display, describe, first_error
from eka.commands.store_arguments import store_path
from eka.context import Context
from eka.fetching import Reach
from eka.launching import find_host
from eka.packages import PackageRef, names_atom
from eka.shell import static_shell
from eka_runtime.build.goals import Goals
from eka_runtime.build.scheduler import Outcome, Scheduler
from eka_runtime.build.settings import (
    BuildSettings,
    job_count,
    own_features,
    own_systems,
)
from eka_runtime.errors import (
    EkaError,
    FormatError,
    HashMismatch,
    ServiceError,
    UntrustedError,
    UsageError,
)
from eka_runtime.nix.derivation import EXTENSION
from eka_runtime.nix.path import StorePath
from eka_runtime.runtime.launch import default_state_directory
from eka_runtime.store.roots import root_for

if TYPE_CHECKING:
    from eka.config import Settings
    from eka.evaluate.config import Choices
    from eka.evaluate.evaluator import Builder
    from eka.evaluate.request import Graph
    from eka_runtime.store.store import Store


class Options(NamedTuple):
    """Of the command line, by the names of `eka build`'s own."""

    out_link: str
    no_link: bool
    max_jobs: int | None
    cores: int
    keep_going: bool
    keep_failed: bool
    check: bool
    logs: bool
    dry_run: bool
    timeout: float
    max_silent_time: float
    max_log_size: int | None
    limits: tuple[str, ...]
    system_features: str | None
    extra_platforms: str | None
    allow_no_chroot: bool
    nesting: bool


DEFAULTS = Options(
    "result", True, None, 0, False, False, False, False, False,
    0, 0, None, (), None, None, False, False,
)  # fmt: skip


class Target(NamedTuple):
    """`outputs`: () for all of a derivation, None for a path that is none.

    `graph` is what the derivation was evaluated from, if it was.
    """

    path: StorePath
    outputs: tuple[str, ...] | None
    graph: Graph | None = None


def realise(
    context: Context,
    targets: Sequence[str],
    options: Options,
    environ: Mapping[str, str],
    choices: Choices | None = None,
) -> None:
    """`choices` is the configuration of targets that are atoms.

    Prints the outputs. Raises what failed first, when everything else has been told."""
    settings = context.settings()
    with context.open_store() as store:
        reach = Reach(store, settings, context.output, offline=context.offline)
        reach.choices = choices
        wanted = [target for text in targets for target in _targets(text, reach)]
        goals = _wanted_outputs(wanted)
        if options.dry_run:
            _show_plan(context, store, reach, goals)
            return
        outcomes = _build(context, store, reach, settings, options, goals, environ)
        _annotate(store, wanted, outcomes)
        built = _report(context, wanted, outcomes)
        for target in wanted:
            if target.outputs is None:
                reach.info(target.path)
        if not options.no_link:
            _link_all(store, options.out_link, built)


def _targets(text: str, reach: Reach) -> list[Target]:
    """An atom or expression stands for its derivations. Raises what evaluating raises."""
    ref = PackageRef(text, "target", Path.cwd())
    if not names_atom(ref) and not text.endswith(".nix"):
        try:
            return [parse_target(text)]
        except UsageError:
            if not os.path.isdir(text):
                raise
        # A directory of the caller's: what it lacks to be evaluated is what is to be told.
    from eka.evaluate.evaluation import parse_target as parse_evaluated
    from eka.evaluate.evaluation import planned
    from eka.evaluate.installing import plan_target

    made, found = plan_target(parse_evaluated(text), reach, "plan")
    return [Target(one.drv, (one.output,), made.graph) for one in planned(found.value)]


def _annotate(
    store: Store, wanted: Sequence[Target], outcomes: Mapping[StorePath, Outcome]
) -> None:
    """Also of what was built before something else failed."""
    for target in wanted:
        if target.graph is not None and outcomes[target.path].error is None:
            from eka.evaluate.installing import annotate

            annotate(store, target.graph, outcomes[target.path].outputs.values())


def build_goals(
    store: Store, reach: Reach, goals: Mapping[StorePath, set[str]]
) -> Mapping[StorePath, Outcome]:
    """Builds with everything as it is by default. Raises what failed first."""
    context = Context()
    context.output, context.offline = reach.output, reach.offline
    outcomes = _build(context, store, reach, reach.settings, DEFAULTS, goals, os.environ)
    if (failed := first_error(list(outcomes.values()))) is not None:
        raise _summary(failed, outcomes)
    return outcomes


def parse_target(text: str) -> Target:
    """Raises UsageError and InvalidStorePath."""
    base, mark, names = text.replace("^", "!").partition("!")
    path = store_path(base)
    if not path.name.endswith(EXTENSION):
        if mark:
            raise UsageError(f"`{path}` is no derivation, and has no outputs to choose from")
        return Target(path, None)
    outputs = () if names in ("", "*") else tuple(names.split(","))
    return Target(path, outputs)


def default_settings(
    settings: Settings, environ: Mapping[str, str], *, offline: bool
) -> BuildSettings:
    """Without anything from a command line."""
    return BuildSettings(
        shell=static_shell(settings),
        max_jobs=job_count(),
        offline=offline,
        systems=own_systems(),
        features=own_features(),
        environ=environ,
    )


def build_settings(
    settings: Settings, options: Options, environ: Mapping[str, str], *, offline: bool
) -> BuildSettings:
    """What eka.toml, the command line and the machine make of it."""
    own = default_settings(settings, environ, offline=offline)
    return own._replace(
        max_jobs=options.max_jobs or own.max_jobs,
        cores=options.cores,
        timeout=options.timeout,
        max_silent_time=options.max_silent_time,
        max_log_size=own.max_log_size if options.max_log_size is None else options.max_log_size,
        keep_failed=options.keep_failed,
        keep_going=options.keep_going,
        check=options.check,
        no_chroot=options.allow_no_chroot,
        nesting=options.nesting,
        systems=(*own.systems, *(options.extra_platforms or "").split()),
        features=(*own.features, *(options.system_features or "").split()),
        limits=options.limits,
    )


class ReachSubstitutes:
    """The far services of this configuration as `Substitutes`."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    def available(self, paths: Sequence[StorePath]) -> Sequence[StorePath]:
        return paths

    def fetch(self, paths: Sequence[StorePath]) -> None:
        try:
            self._reach.fetch(paths)
        except (ServiceError, UntrustedError, HashMismatch, FormatError) as error:
            # What cannot be fetched is built.
            self._reach.warn(str(error))


def _wanted_outputs(wanted: Sequence[Target]) -> dict[StorePath, set[str]]:
    goals: dict[StorePath, set[str]] = {}
    whole = {target.path for target in wanted if target.outputs == ()}
    for path, outputs, _ in wanted:
        if outputs is not None:
            goals.setdefault(path, set()).update(() if path in whole else outputs)
    return goals


def _build(
    context: Context,
    store: Store,
    reach: Reach,
    settings: Settings,
    options: Options,
    goals: Mapping[StorePath, set[str]],
    environ: Mapping[str, str],
) -> Mapping[StorePath, Outcome]:
    if not goals:
        return {}
    display = Display(context.output, logs=options.logs)
    builder: Builder = Scheduler(
        store,
        find_host(settings),
        build_settings(settings, options, environ, offline=context.offline),
        default_state_directory(environ),
        ReachSubstitutes(reach),
        display,
    )
    with context.output.live(display.lines):
        return builder.realise(goals)


def _report(
    context: Context, wanted: Sequence[Target], outcomes: Mapping[StorePath, Outcome]
) -> list[tuple[StorePath, str, StorePath]]:
    """Prints what came out; returns target, output name and path of each."""
    built = []
    for path, outputs, _ in wanted:
        if outputs is None:
            context.output.data(str(path))
            built.append((path, "out", path))
            continue
        outcome = outcomes[path]
        names = outputs or tuple(outcome.outputs)
        if context.json:
            context.output.json(_as_json(outcome))
        if outcome.error is None:
            for name in names:
                built.append((path, name, outcome.outputs[name]))
                if not context.json:
                    context.output.data(str(outcome.outputs[name]))
    if (failed := first_error(list(outcomes.values()))) is not None:
        raise _summary(failed, outcomes)
    return built


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "drvPath": str(outcome.path),
        "status": outcome.how,
        "outputs": {name: str(path) for name, path in outcome.outputs.items()},
        "startTime": int(outcome.started),
        "stopTime": int(outcome.stopped),
        **_error(outcome.error),
    }


def _error(error: EkaError | None) -> dict[str, object]:
    return {} if error is None else {"error": str(error), "exitCode": error.exit_code}


def _summary(failed: Outcome, outcomes: Mapping[StorePath, Outcome]) -> EkaError:
    """The first failure once more, as the last word."""
    count = sum(outcome.error is not None for outcome in outcomes.values())
    error = failed.error
    assert error is not None
    text = describe(failed)
    if count > 1:
        text = f"{count} derivations were not built; first: {text}"
    return type(error)(text, hint=error.hint)


def _show_plan(
    context: Context, store: Store, reach: Reach, wanted: Mapping[StorePath, set[str]]
) -> None:
    goals = Goals(store, ReachSubstitutes(reach))
    goals.add(wanted)
    for path, goal in goals.goals.items():
        if goal.build and context.json:
            context.output.json({"drvPath": str(path), "outputs": sorted(goal.wanted)})
        elif goal.build:
            context.output.data(str(path))


def _link_all(store: Store, link: str, built: Sequence[tuple[StorePath, str, StorePath]]) -> None:
    """`result`, `result-dev`; for a second target `result-2`, `result-2-dev`."""
    numbers: dict[StorePath, int] = {}
    for target, name, path in built:
        number = numbers.setdefault(target, len(numbers) + 1)
        base = link if number == 1 else f"{link}-{number}"
        _link(store, Path(base if name == "out" else f"{base}-{name}"), path)


def _link(store: Store, link: Path, path: StorePath) -> None:
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    if os.path.lexists(link) and not link.is_symlink():
        raise UsageError(
            f"`{link}` is there and is no link", hint="name another one with `-o LINK`"
        )
    try:
        fresh.symlink_to(str(path))
        os.rename(fresh, link)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise UsageError(f"cannot make the link `{link}`: {error.strerror}") from error
    store.roots.add(root_for(os.fspath(link), None))
