"""`eka` around running: explain, bundle, doctor, completion, and the common options."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from eka.cli import COMMANDS
from eka.commands.store import COMMANDS as STORE_COMMANDS
from tests.cgroups import by_hand
from tests.cli.world import World
from tests.requirements import require


def test_explain_names_who_asked(world: World, box: Path) -> None:
    script = world.script(box, "true", 'env = ["LANG=C"]')
    done = world.run("eka", "explain", "--json", "--net", script)
    rows = [json.loads(line) for line in done.out.splitlines()]
    origins = {(row["kind"], row["subject"]): row["origin"] for row in rows}
    assert origins["env", "LANG"].startswith("env (")
    assert origins["namespace", "network"] == "--net"
    assert origins["mount", world.busybox].startswith("packages (")
    assert origins["mount", str(world.work)] == "default: working directory"
    assert world.run("eka-run", "--explain", script).out.startswith(b"KIND")


def test_explain_runs_nothing(world: World, box: Path) -> None:
    script = world.script(box, "echo ran > made")
    assert world.run("eka-run", "--explain", script, cwd=box).status == 0
    assert world.run("eka", "explain", script, cwd=box).status == 0
    assert not (box / "made").exists()


def test_a_created_bundle_is_valid_and_repeatable(world: World, box: Path) -> None:
    made = [box / "one", box / "two"]
    for place in made:
        done = world.run("eka", "bundle", "create", "-o", place, world.greet, "bundle")
        assert (done.status, done.out) == (0, f"{place}\n".encode()), done.err.decode()
    assert world.run("eka", "bundle", "validate", made[0]).status == 0
    assert world.run("eka", "bundle", "diff", *made).status == 0
    assert (made[0] / "config.json").read_bytes() == (made[1] / "config.json").read_bytes()
    explained = world.run("eka", "explain", made[0])
    assert world.greet.encode() in explained.out


def test_a_created_bundle_starts_by_hand(world: World, box: Path) -> None:
    world.run("eka", "bundle", "create", "-o", box / "b", world.greet, "hand")
    root = world.directory(f"{box.name}-root")
    words = [*by_hand(world.user), require("crun"), "--root", str(root)]
    words += ["--cgroup-manager=disabled", "run", "-b", str(box / "b"), f"by-hand-{os.getpid()}"]
    done = subprocess.run(words, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert done.stdout.startswith(b"Hello, hand!"), done.stderr.decode()


def test_doctor_tells_the_mode_in_force(world: World) -> None:
    done = world.run("eka", "doctor")
    assert done.status == 0
    assert b"outer" in done.out
    shown = world.run("eka", "doctor", "--json")
    assert all(json.loads(line) for line in shown.out.splitlines())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(world: World, shell: str) -> None:
    assert b"_EKA_COMPLETE" in world.run("eka", "completion", shell).out


def test_every_command_has_help_and_common_options(world: World) -> None:
    for name in COMMANDS:
        done = world.run("eka", name, "--help")
        assert done.status == 0, name
        assert b"--store DIR" in done.out
    for name in STORE_COMMANDS:
        done = world.run("eka", "store", name, "--help")
        assert b"--store DIR" in done.out, name
    assert b"Usage: eka-run" in world.run("eka-run", "--help").out


def test_options_stand_before_or_after_a_command(world: World, box: Path) -> None:
    before = world.run("eka", "--store", box / "s", "-C", box, "store", "list", "--json")
    after = world.run("eka", "store", "list", "--store", box / "s", "-C", box, "--json")
    assert before == after


def test_keep_says_where_the_bundle_is(world: World, box: Path) -> None:
    script = world.script(box, "true")
    done = world.run("eka-run", "--keep", script)
    assert done.err.startswith(b"bundle: ")
    kept = Path(os.fsdecode(done.err.removeprefix(b"bundle: ").strip()))
    assert (kept / "config.json").exists()
