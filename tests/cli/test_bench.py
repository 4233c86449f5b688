"""`eka bench`: the installed tool measures itself against what the host has."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.world import World


def test_start_is_compared_with_the_runtimes_of_this_host(world: World, box: Path) -> None:
    done = world.run("eka", "bench", "start", "--rounds", "1", "--json", cwd=box)
    assert done.status == 0, done.err.decode()
    result, closures = [json.loads(line) for line in done.out.splitlines()]
    assert result["rows"].pop("eka-run (first)")["best"] > 0
    own = result["rows"].pop("eka-run (warm)")
    assert own["best"] > 0
    assert set(own["ratios"]) == set(result["rows"])
    shown = {name for name in ("crun run", "runc run") if name in result["rows"]}
    told = {name for name in ("crun run", "runc run") if f"`{name}`" in str(result["leftOut"])}
    assert shown | told == {"crun run", "runc run"}
    assert "auto, 500 paths" in closures["rows"]
    assert list(box.iterdir()) == []


def test_an_unknown_benchmark_is_a_usage_error(world: World) -> None:
    done = world.run("eka", "bench", "speed")
    assert done.status == 2
    assert b"'speed' is not one of 'start', 'store'" in done.err
