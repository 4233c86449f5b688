"""Every example runs and says what its comments promise."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.cli.world import World
from tests.installed import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
SCRIPTS = {"hello", "grants"}


@pytest.fixture
def examples(world: World, box: Path) -> Path:
    """A copy of examples/, with the links that examples/demo leaves beside it."""
    place = Path(shutil.copytree(EXAMPLES, box / "examples"))
    (box / ".demo").mkdir()
    (box / ".demo" / "greet").symlink_to(world.greet)
    (box / ".demo" / "busybox").symlink_to(world.busybox)
    for directory, _, files in os.walk(box):
        for name in (directory, *(os.path.join(directory, file) for file in files)):
            os.chown(name, world.user.uid, world.user.gid, follow_symlinks=False)
    return place


def test_no_example_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == SCRIPTS | {"demo", "greet.nix"}


def test_hello(world: World, examples: Path) -> None:
    done = world.run("./hello", cwd=examples)
    lines = done.out.decode().splitlines()
    assert lines[0] == f"Hello, {world.user.name}! I live in {world.greet}/bin/greet"
    assert os.path.basename(world.greet) in lines
    assert os.path.basename(world.other) not in lines
    assert lines[-1].endswith("networks: 1 (lo)")
    assert (done.status, done.err) == (0, b"")


def test_grants(world: World, examples: Path) -> None:
    done = world.run(examples / "grants", cwd=world.work, env={"LANG": "de_DE.UTF-8"})
    assert b"GREETING is: set by the header\n" in done.out
    assert b"greet.nix" in done.out
    assert done.out.endswith(b"and I may not write there\n")
    assert not (examples / "written").exists()
