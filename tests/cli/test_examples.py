"""Every example runs and says what its comments promise."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.cli.world import World
from tests.installed import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
SCRIPTS = {"hello", "grants", "with-atom"}
ATOMS = {"composer", "cross", "hello", "settings", "variants"}


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
    assert {path.name for path in EXAMPLES.iterdir()} == SCRIPTS | {"demo", "greet.nix", "atoms"}
    assert {path.name for path in (EXAMPLES / "atoms").iterdir()} == ATOMS | {"ekala.toml"}


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


def test_a_script_with_an_atom(world: World, examples: Path) -> None:
    done = world.run("./with-atom", cwd=examples)
    assert (done.status, done.out) == (0, b"hello, world; hello world\n"), done.err.decode()


def test_atoms(world: World, examples: Path) -> None:
    place = examples / "atoms"

    def eka(*arguments: str) -> str:
        done = world.run("eka", *arguments, cwd=place)
        assert done.status == 0, done.err.decode()
        return done.out.decode()

    assert eka("run", "hello") == "hello, world; hello world\n"
    assert json.loads(eka("eval", "hello#text")) == "hello, world; hello world"
    assert eka("run", "--variant", "loud", "--set", "times=2", "variants") == "HELLO world!\n" * 2
    assert json.loads(eka("eval", "settings#package.version")) == "1.2.0"
    assert "variant insistent" in eka("config", "show", "variants", "--variant", "insistent")
    plan = json.loads(eka("plan", "cross#native", "--host-system", "aarch64-linux", "--json"))
    assert plan["system"] == "aarch64-linux"
    (out,) = eka("build", "--no-link", "cross", "--host-system", "aarch64-linux").split()
    assert out.endswith("-tool-aarch64-linux")
    assert eka("store", "cat", out).endswith("for aarch64-linux\n")
