"""What the benchmarks measure with: `eka.bench.measure`, and a report that prints."""

from __future__ import annotations

from collections.abc import Sequence

from eka.bench.measure import Contender, Result, Timing, compare, race

__all__ = ["Contender", "Timing", "race", "report", "show"]


def report(title: str, timings: Sequence[Timing], peers: Sequence[str]) -> dict[str, object]:
    """Prints a table with each contender's ratio to each peer's median; returns it as data."""
    return show(compare(title, timings, peers))


def show(result: Result) -> dict[str, object]:
    print(f"\n{result.title}")
    for line in result.left_out:
        print(f"left out: {line}")
    for line in result.lines:
        print(line)
    return {"title": result.title, "rows": result.rows}
