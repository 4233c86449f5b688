"""Times commands against each other: interleaved rounds, medians, ratios to a peer of the same run.

Wall time of whole processes by perf_counter around posix_spawn; nothing is asserted here, and
nothing printed.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from eka.output import table
from eka_runtime.errors import HostError

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class Timing(NamedTuple):
    """Seconds."""

    name: str
    median: float
    best: float


class ContenderFailed(HostError):
    """A program that was to be measured does not work on this host."""


class Contender(NamedTuple):
    """`before` runs untimed ahead of every round, and so does `fresh`, which gives argv and env."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    before: Callable[[], None] | None = None
    stdin: str | None = None
    cwd: str | None = None
    fresh: Callable[[], tuple[Sequence[str], Mapping[str, str]]] | None = None


def race(contenders: Sequence[Contender], *, rounds: int, warmup: int = 1) -> list[Timing]:
    """Runs every contender once per round, so that the machine's moods fall on all alike."""
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(-warmup, rounds):
        for contender in contenders:
            took = _once(contender)
            if number >= 0:
                times[contender.name].append(took)
    return [Timing(name, statistics.median(t), min(t)) for name, t in times.items()]


def usable(contenders: Sequence[Contender]) -> tuple[list[Contender], list[str]]:
    """Those that run on this host, tried once, and what the others said."""
    found, refusals = [], []
    for contender in contenders:
        try:
            _once(contender)
            found.append(contender)
        except ContenderFailed as error:
            refusals.append(str(error))
    return found, refusals


def _once(contender: Contender) -> float:
    if contender.before is not None:
        contender.before()
    if contender.fresh is not None:
        argv, env = contender.fresh()
        contender = contender._replace(argv=argv, env=env)
    with open(contender.stdin or os.devnull, "rb") as stdin:
        start = time.perf_counter()
        done = subprocess.run(
            contender.argv,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=None if contender.env is None else dict(contender.env),
            cwd=contender.cwd,
            check=False,
        )
        took = time.perf_counter() - start
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise ContenderFailed(f"`{contender.name}` fails here: {said}", hint="see what it says")
    return took


class Result(NamedTuple):
    """`rows` by contender: `median` and `best` in seconds (or `bytes`), `ratios` to each peer;
    `left_out` says why others took no part."""

    title: str
    lines: tuple[str, ...]
    rows: dict[str, dict[str, object]]
    left_out: tuple[str, ...] = ()


def compare(title: str, timings: Sequence[Timing], peers: Sequence[str]) -> Result:
    """Each contender's median as a ratio to each peer's that took part."""
    base = {timing.name: timing.median for timing in timings}
    known = [peer for peer in peers if peer in base]
    rows: dict[str, dict[str, object]] = {}
    cells = []
    for name, median, best in timings:
        ratios = {peer: round(median / base[peer], 2) for peer in known}
        rows[name] = {"median": median, "best": best, "ratios": ratios}
        shown = (f"{ratio:.2f}" for ratio in ratios.values())
        cells.append((name, _time(median), _time(best), *shown))
    header = ("", "median", "best", *(f"÷ {peer}" for peer in known))
    return Result(title, tuple(table(cells, header)), rows)


def peer(name: str) -> str | None:
    """The path of a program to be compared with, where this host has it."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


def own(name: str) -> str:
    """The path of `eka` or `eka-run` of this installation. Raises HostError."""
    schemes = sysconfig.get_preferred_scheme("prefix"), sysconfig.get_preferred_scheme("user")
    for place in [Path(sysconfig.get_path("scripts", scheme)) for scheme in schemes]:
        if os.access(place / name, os.X_OK):
            return os.fspath(place / name)
    found = shutil.which(name)
    if found is None:
        raise HostError(f"`{name}` is not on PATH", hint="run `eka bench` of an installed eka")
    return found


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
