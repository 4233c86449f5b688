"""Times commands against each other: interleaved rounds, medians, ratios to a peer of the same run.

Wall time of whole processes by perf_counter around posix_spawn; nothing is asserted here.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Timing(NamedTuple):
    """Seconds."""

    name: str
    median: float
    best: float


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
        raise RuntimeError(f"{contender.name} failed: {done.stderr.decode(errors='replace')}")
    return took


def report(title: str, timings: Sequence[Timing], peers: Sequence[str]) -> dict[str, object]:
    """Prints a table with each contender's ratio to each peer's median; returns it as data."""
    print(f"\n{title}")
    base = {timing.name: timing.median for timing in timings}
    known = [peer for peer in peers if peer in base]
    print(f"{'':34}{'median':>10}{'best':>10}" + "".join(f"{'÷ ' + p:>22}" for p in known))
    rows: dict[str, object] = {}
    for name, median, best in timings:
        ratios = {peer: round(median / base[peer], 2) for peer in known}
        cells = "".join(f"{ratio:>22.2f}" for ratio in ratios.values())
        print(f"{name:34}{_time(median):>10}{_time(best):>10}{cells}")
        rows[name] = {"median": median, "best": best, "ratios": ratios}
    return {"title": title, "rows": rows}


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
