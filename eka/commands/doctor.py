"""`eka doctor`: what this host can do, the mode in force, and the one thing that would lift it."""

from __future__ import annotations

import os

import click

from eka.context import Context
from eka.output import table
from eka_runtime.errors import HostError, RuntimeMissing
from eka_runtime.runtime.facts import Fact, survey
from eka_runtime.runtime.limits import describe
from eka_runtime.runtime.probe import Host, find_runtimes, probe, runtime_version

_LOST = {
    "outer": "everything works",
    "direct": "starts are slower; a killed launcher may leave its program running",
    "degraded": "the program sees the processes around it in /proc, and their host name",
}


@click.command(name="doctor")
@click.pass_obj
def command(context: Context) -> None:
    """Try out what this host allows, and say what would improve it.

    Fails when no bundle can be started at all.
    """
    host: Host | None = None
    failure: HostError | None = None
    try:
        host = probe(refresh=True)
    except HostError as error:
        failure = error
    facts = [*_runtimes(), *survey(), *_limits()]
    remedy = _remedy(host, facts)
    if context.json:
        context.output.json(_as_json(host, facts, remedy))
    else:
        for line in _as_text(host, facts, remedy):
            context.output.data(line)
    if failure is not None:
        raise failure


def _runtimes() -> list[Fact]:
    try:
        found = find_runtimes(os.environ)
    except RuntimeMissing as error:
        return [Fact("runtime", False, str(error), error.hint or "")]
    return [Fact(kind, True, f"{path}, {runtime_version(path)}") for path, kind in found]


def _limits() -> list[Fact]:
    remedy = {
        "memory": "log in through systemd with a delegated control group: "
        "`systemd-run --user --scope --property=Delegate=yes eka …`",
        "pids": "run as a user other than root, or where control groups can be made",
    }
    return [
        Fact(f"limit: {name}", bool(how), how or "cannot be enforced", "" if how else remedy[name])
        for name, how in describe().items()
    ]


def _remedy(host: Host | None, facts: list[Fact]) -> str | None:
    """What to do for the next better mode; None in the best."""
    if host is not None and host.mode == "outer":
        return None
    return next((fact.remedy for fact in facts if not fact.ok and fact.remedy), None)


def _as_json(host: Host | None, facts: list[Fact], remedy: str | None) -> dict[str, object]:
    return {
        "mode": host and host.mode,
        "runtime": host and host.runtime,
        "kind": host and host.kind,
        "refused": list(host.refused) if host else [],
        "remedy": remedy,
        "facts": [fact._asdict() for fact in facts],
    }


def _as_text(host: Host | None, facts: list[Fact], remedy: str | None) -> list[str]:
    rows: list[tuple[str, ...]] = [
        (fact.name, "ok" if fact.ok else "no", fact.detail) for fact in facts
    ]
    lines = [*table(rows, ("PROBE", "", "FOUND")), ""]
    if host is None:
        lines.append("mode: none, bundles cannot be started")
    else:
        lines.append(f"mode: {host.mode} with {host.kind} ({_LOST[host.mode]})")
        lines += [f"refused: {line}" for line in host.refused]
    if remedy is not None:
        lines.append(f"to improve: {remedy}")
    return lines
