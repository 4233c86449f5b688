"""Everything of a build is killed at any moment: it can be built again, and nothing is left over.

In the modes outer and direct, with crun and runc. The number of kills is that of continuous
integration; EKA_CRASH_BUILDS makes it larger by hand (up to 200 for each user).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from eka_runtime.runtime.launch import default_state_directory
from eka_runtime.runtime.limits import own_groups
from tests.builds import Derivations, build, instantiate
from tests.cli.conftest import open_directory
from tests.cli.world import World
from tests.requirements import lacking
from tests.users import labels

BUILDS = int(os.environ.get("EKA_CRASH_BUILDS", "4"))
SEED = int(os.environ.get("EKA_CRASH_SEED", "1"))

pytestmark = pytest.mark.parametrize(
    "world", [label for label in labels() if label != "sub"], indirect=True, scope="session"
)


class Way(NamedTuple):
    mode: str
    runtime: str

    def environment(self) -> dict[str, str]:
        return {"EKA_MODE": self.mode, "EKA_RUNTIME": self.runtime}


WAYS = [Way(mode, runtime) for runtime in ("crun", "runc") for mode in ("outer", "direct")]


@pytest.fixture(scope="session")
def crashing() -> Iterator[Derivations]:
    with open_directory() as place:
        yield instantiate(place, "crash.nix")


def _ways(world: World) -> list[Way]:
    found = []
    for way in WAYS:
        told = world.run("eka", "doctor", env=way.environment()).out.decode()
        if f"mode: {way.mode} with {way.runtime}" in told:
            found.append(way)
    return found or lacking("this user can start no bundle")


def _ours(world: World) -> list[int]:
    """Processes of this world: eka's, the runtime's, and shells that build."""
    marks = [os.fsencode(world.place), os.fsencode(world.bin.parent), b"/small/$i"]
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            # One that is dead has no words any more, even if nobody has reaped it.
            if any(mark in words for mark in marks):
                found.append(int(entry.name))
    return found


def _kill(processes: list[int]) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _kill_all(world: World, way: Way, rng: random.Random) -> list[int]:
    """What a look finds is killed in any order. In the outer mode the kernel ends what was born
    since; in the direct one a runtime that dies may leave its program behind (host.md)."""
    processes = left = _ours(world)
    rng.shuffle(processes)
    deadline = time.monotonic() + 60
    while left:
        assert time.monotonic() < deadline, left
        if left is processes or way.mode == "direct":
            _kill(left)
            processes += left
        left = _ours(world)
    return processes


def _check_nothing_is_left(world: World, killed: list[int]) -> None:
    store = world.place / "store"
    assert list((store / "build").iterdir()) == []
    assert list((store / "tmp").iterdir()) == []
    assert list((store / "log").rglob(".new-*")) == []
    assert os.fspath(world.place) not in Path("/proc/self/mountinfo").read_text()
    for groups in (*own_groups(), default_state_directory(world.environment())):
        for place in groups.glob("eka-*"):
            assert int(place.name.split("-")[1]) not in killed, (place, os.listdir(place))
    verified = world.run("eka", "store", "verify", "--deep")
    assert verified.status == 0, verified.out + verified.err


@pytest.mark.timeout(300 + 30 * BUILDS)
def test_whatever_is_killed_can_be_built_again(world: World, crashing: Derivations) -> None:
    crashing.load(world)
    rng, ways = random.Random(SEED), _ways(world)
    *drvs, measured = crashing.drvs.values()
    started = time.monotonic()
    assert build(world, measured).status == 0
    span = time.monotonic() - started
    for number, drv in enumerate(drvs[:BUILDS]):
        way = ways[number % len(ways)]
        words = ("eka", "build", "--no-link", "-q", drv)
        process = world.popen(*words, env=way.environment(), stdout=subprocess.DEVNULL)
        with process:
            # At any moment, most of them after the start of Python.
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(span / 4, span * 1.1))
            killed = _kill_all(world, way, rng)
        assert process.returncode in (0, -signal.SIGKILL), way
        done = build(world, "--json", drv, env=way.environment())
        assert done.status == 0, (way, done.err.decode())
        if json.loads(done.out)["status"] == "valid":
            # It was killed after that; the next build of anything removes what is left.
            done = build(world, "--check", drv, env=way.environment())
            assert done.status == 0, (way, done.err.decode())
        _check_nothing_is_left(world, killed)
