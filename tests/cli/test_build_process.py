"""Builds whose process dies, is interrupted, or is not the only one."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.builds import Derivations, build, instantiate
from tests.cli.conftest import open_directory
from tests.cli.test_build_hostile import running
from tests.cli.world import World
from tests.users import labels

pytestmark = pytest.mark.parametrize(
    "world", [label for label in labels() if label != "sub"], indirect=True, scope="session"
)


@pytest.fixture(scope="session")
def waiting() -> Iterator[Derivations]:
    with open_directory() as place:
        yield instantiate(place, "waiting.nix")


@pytest.fixture
def loaded(world: World, waiting: Derivations) -> World:
    waiting.load(world)
    return world


def begin(world: World, drv: str, seconds: str, said: str) -> subprocess.Popen[bytes]:
    """A build that has said something, and goes on."""
    words = ("eka", "build", "--no-link", "-L", drv)
    process = world.popen(*words, env={"WAIT": seconds}, stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if said in line.decode():
            return process
    raise AssertionError(f"it ended with {process.wait()} and never said {said!r}")


def end(process: subprocess.Popen[bytes], number: int) -> int:
    with process:
        process.send_signal(number)
        return process.wait()


def vanished(world: World, seconds: int) -> bool:
    return any(not running(world, seconds) for _ in range(200))


def test_a_killed_build_leaves_nothing_in_the_way(loaded: World, waiting: Derivations) -> None:
    drv = waiting.drvs["killed"]
    process = begin(loaded, drv, "98771", "in the middle")
    assert end(process, signal.SIGKILL) == -signal.SIGKILL
    assert vanished(loaded, 98771)
    done = build(loaded, drv, env={"WAIT": "0"})
    assert done.status == 0, done.err.decode()
    assert list((loaded.place / "store" / "build").iterdir()) == []
    verified = loaded.run("eka", "store", "verify", "--deep")
    assert verified.status == 0, verified.out


def test_an_interrupted_build_cleans_up(loaded: World, waiting: Derivations) -> None:
    process = begin(loaded, waiting.drvs["interrupted"], "98772", "in the middle")
    assert end(process, signal.SIGINT) == 130
    assert not running(loaded, 98772)
    assert list((loaded.place / "store" / "build").iterdir()) == []


def test_one_process_builds_and_the_other_waits(loaded: World, waiting: Derivations) -> None:
    drv = waiting.drvs["shared"]
    first = begin(loaded, drv, "98773", "in the middle")
    second = begin(loaded, drv, "0", "waiting for another process")
    assert end(first, signal.SIGKILL) == -signal.SIGKILL
    with second:
        assert second.wait() == 0
    assert vanished(loaded, 98773)
