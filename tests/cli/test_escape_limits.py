"""Limits: each is exceeded by every kind of user, under both runtimes, and in vain."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from tests.cli.world import Done, World
from tests.requirements import require


@pytest.fixture(params=["crun", "runc"])
def runtime(request: pytest.FixtureRequest) -> dict[str, str]:
    require(request.param)
    return {"EKA_RUNTIME": request.param}


def twice(world: World, box: Path, body: str, limit: str, runtime: dict[str, str]) -> Done:
    """A cold and a warm start, which must end alike; the second one's outcome."""
    script = world.script(box, body, f'limits = ["{limit}"]')
    first, second = (world.run(script, cwd=box, env=runtime) for _ in range(2))
    assert (first.status, first.out) == (second.status, second.out)
    return second


def test_memory(world: World, box: Path, runtime: dict[str, str]) -> None:
    hog = "head -c 100000000 /dev/zero | tail -c 100000000 | wc -c"
    assert twice(world, box, hog, "memory=1G", runtime).out == b"100000000\n"
    small = world.directory(f"{box.name}-small")
    assert twice(world, small, hog, "memory=64M", runtime).out != b"100000000\n"


def test_memory_that_is_a_file(world: World, box: Path, runtime: dict[str, str]) -> None:
    body = "head -c 100000000 /dev/zero > /dev/shm/file && echo filled"
    assert b"filled" not in twice(world, box, body, "memory=64M", runtime).out


MANY = "n=0; while [ $n -lt 40 ]; do sleep 100 & n=$((n+1)); done 2>/dev/null; echo all started"


def test_processes(world: World, box: Path, runtime: dict[str, str]) -> None:
    assert twice(world, box, MANY, "pids=100", runtime).out == b"all started\n"
    few = world.directory(f"{box.name}-few")
    assert b"all started" not in twice(world, few, MANY, "pids=20", runtime).out


def test_a_fork_bomb_ends_with_its_time(world: World, box: Path, runtime: dict[str, str]) -> None:
    header = 'limits = ["pids=30", "time=2s"]'
    script = world.script(box, "bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 100", header)
    done = world.run(script, cwd=box, env=runtime)
    assert done.status in (124, 2), done  # the shell itself may be refused its children


def test_processor_time(world: World, box: Path, runtime: dict[str, str]) -> None:
    script = world.script(box, "while :; do :; done", 'limits = ["cpu=1s"]')
    assert world.run(script, cwd=box, env=runtime).status == 128 + 24


def test_wall_time(world: World, box: Path, runtime: dict[str, str]) -> None:
    script = world.script(box, "while :; do sleep 1; done", 'limits = ["time=500ms"]')
    for _ in range(2):
        start = time.monotonic()
        assert world.run(script, cwd=box, env=runtime, timeout=100).status == 124
        assert time.monotonic() - start >= 0.5


def test_wall_time_of_a_program_that_ignores_it(world: World, box: Path) -> None:
    body = "trap '' TERM; setsid sleep 1000 & while :; do sleep 1; done"
    script = world.script(box, body, 'limits = ["time=500ms"]')
    assert world.run(script, cwd=box, timeout=100).status == 124


def test_a_program_that_is_in_time_keeps_its_status(
    world: World, box: Path, runtime: dict[str, str]
) -> None:
    assert twice(world, box, "exit 7", "time=1h", runtime).status == 7


def test_open_files(world: World, box: Path, runtime: dict[str, str]) -> None:
    body = "ulimit -n; ulimit -Hn; ulimit -n 4096 2>/dev/null && echo raised"
    assert twice(world, box, body, "files=32", runtime).out == b"32\n32\n"


def test_file_size(world: World, box: Path, runtime: dict[str, str]) -> None:
    body = "head -c 200000 /dev/zero > file && echo written"
    assert b"written" not in twice(world, box, body, "file-size=100K", runtime).out
    assert (box / "file").stat().st_size == 100 << 10


def test_the_command_line_has_the_last_word(world: World, box: Path) -> None:
    script = world.script(box, "ulimit -n", 'limits = ["files=32"]')
    assert world.run("eka-run", "--limit", "files=40", script, cwd=box).out == b"40\n"
    assert world.run("eka-run", "--limit", "files=none", script, cwd=box).out not in (b"32\n", b"")


def test_no_group_is_left(world: World, box: Path) -> None:
    script = world.script(box, "cat /proc/self/cgroup", 'limits = ["memory=1G", "pids=50"]')
    before = _groups()
    for _ in range(2):
        assert world.run(script, cwd=box).status == 0
    assert _groups() <= before


def _groups() -> set[str]:
    names = {name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names}
    return {name for name in names if re.fullmatch(r"eka-[0-9]+-[0-9a-z]+", name)}


def test_what_cannot_be_kept_is_said_and_refused(world: World, box: Path) -> None:
    script = world.script(box, "true", 'limits = ["memory=100M"]')
    warned = world.run("eka", "explain", script, cwd=box)
    assert b"memory" in warned.out
    strict = world.run("eka-run", "--require-sandbox", script, cwd=box)
    report = world.run("eka", "doctor", cwd=box).out.decode()
    (line,) = [line for line in report.splitlines() if line.startswith("limit: memory")]
    if "control group" in line:
        assert (warned.err, strict.status) == (b"", 0)
    else:
        assert b"for each process" in warned.err
        assert strict.status == 53
