"""The ledger: one line for each run that asked for it, whatever became of the run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from eka_runtime.errors import PathNotFound
from tests.cli.test_warm import ALLOWED, TELLING, imported, is_cold
from tests.cli.world import Done, World
from tests.installed import REPOSITORY

SCHEMA = json.loads((REPOSITORY / "spec" / "run-record.schema.json").read_bytes())


class Ledger:
    """That of one test: `env` makes eka use it."""

    def __init__(self, world: World, box: Path) -> None:
        self.world = world
        # Beside what is granted: a directory with files of eka's is not shown to a program.
        self.state = world.place / f"state-{box.name}"
        self.state.mkdir()
        os.chown(self.state, world.user.uid, world.user.gid)
        self.env = {"XDG_STATE_HOME": os.fspath(self.state)}
        self.file = self.state / "eka" / "runs.jsonl"

    def run(self, *words: str | Path, **more: Any) -> Done:
        return self.world.run(*words, env=self.env | more.pop("env", {}), **more)

    def records(self) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in self.file.read_bytes().splitlines()]
        for record in records:
            jsonschema.validate(record, SCHEMA)
            assert ("status" in record) != ("signal" in record)
        return records

    def last(self) -> dict[str, Any]:
        return self.records()[-1]


@pytest.fixture
def ledger(world: World, box: Path) -> Ledger:
    return Ledger(world, box)


@pytest.fixture
def always(world: World) -> Iterator[None]:
    """`record = true` in eka.toml."""
    config = world.place / "config" / "eka"
    config.mkdir(parents=True)
    (config / "eka.toml").write_text("record = true\n")
    try:
        yield
    finally:
        shutil.rmtree(config.parent)


def test_without_being_asked_nothing_is_written(world: World, box: Path, ledger: Ledger) -> None:
    script = world.script(box, "true")
    for _ in range(2):
        assert ledger.run(script).status == 0
    assert not ledger.file.parent.exists()
    assert ledger.run("eka", "log", "--runs").out == b""


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_line_says_what_ran(world: World, box: Path, ledger: Ledger, runtime: str) -> None:
    world.file(box / "data", "x")
    header = 'read = ["./data"]\nenv = ["SECRET=hunter2"]\nnetwork = true'
    script = world.script(box, "exit 7", header)
    env = {"EKA_RUNTIME": runtime}
    for start in range(2):
        done = ledger.run("eka-run", "--record", script, "argument", cwd=box, env=env | TELLING)
        assert (done.status, is_cold(done)) == (7, start == 0)
    cold, warm = ledger.records()
    for name in ("start", "wall", "peakMemory"):
        cold.pop(name), warm.pop(name)
    assert cold == warm
    assert cold["file"] == os.path.realpath(script)
    assert (cold["status"], cold["runtime"]["name"]) == (7, runtime)
    grants = cold["grants"]
    assert (grants["network"], grants["env"]) == (True, ["SECRET"])
    assert set(grants["read"]) == {str(script), str(box / "data")}
    assert grants["write"] == [str(box)]
    assert b"hunter2" not in ledger.file.read_bytes()
    assert b"argument" not in ledger.file.read_bytes()
    degraded = cold["mode"] == "degraded"
    assert (cold["unsandboxed"], cold["tier"] == "degraded") == (degraded, degraded)
    target = box / "bundle"
    assert ledger.run("eka", "bundle", "create", "-o", target, script, cwd=box, env=env).status == 0
    config = json.loads((target / "config.json").read_bytes())
    assert config["annotations"]["dev.eka.closure"] == cold["closure"]


def test_nobody_else_can_read_it(world: World, box: Path, ledger: Ledger) -> None:
    ledger.run("eka-run", "--record", world.script(box, "umask 0; true"))
    assert ledger.file.stat().st_mode & 0o777 == 0o600
    assert ledger.file.stat().st_uid == world.user.uid
    assert ledger.file.parent.stat().st_mode & 0o777 == 0o700


def test_a_setting_records_every_run(world: World, box: Path, ledger: Ledger, always: None) -> None:
    script = world.script(box, "exit 3")
    assert ledger.run(script).status == 3
    assert ledger.run("eka", "run", f"{world.busybox}/bin/false").status == 1
    assert ledger.run("eka", "shell", "-i", "true", world.busybox).status == 0
    assert [record["status"] for record in ledger.records()] == [3, 1, 0]
    assert ledger.records()[1]["file"] == f"{world.busybox}/bin/false"


def test_a_setting_must_be_a_boolean(world: World, ledger: Ledger, always: None) -> None:
    (world.place / "config" / "eka" / "eka.toml").write_text('record = "yes"\n')
    done = ledger.run("eka", "run", world.greet)
    assert done.status == 11
    assert b"must be true or false" in done.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_is_told(world: World, box: Path, ledger: Ledger, number: int) -> None:
    done = ledger.run("eka-run", "--record", world.script(box, f"kill -{int(number)} $$"))
    assert done.status == 128 + number
    assert ledger.last()["signal"] == number


def test_a_run_that_the_launcher_ends_with_is_recorded(
    world: World, box: Path, ledger: Ledger
) -> None:
    script = world.script(box, "echo ready; exec sleep 1000")
    words = ("eka-run", "--record", script)
    with world.popen(*words, env=ledger.env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert ledger.last()["signal"] == signal.SIGTERM


def test_memory_and_time_are_the_programs(world: World, box: Path, ledger: Ledger) -> None:
    script = world.script(box, 'x=$(head -c 50000000 /dev/zero | tr "\\0" x); sleep 0.3')
    ledger.run("eka-run", "--record", script)
    assert ledger.last()["peakMemory"] > 50_000_000
    assert ledger.last()["wall"] > 0.3


def test_runs_that_end_together_have_whole_lines(world: World, box: Path, ledger: Ledger) -> None:
    script = world.script(box, "true")
    runs = [world.popen("eka-run", "--record", script, env=ledger.env) for _ in range(16)]
    assert [run.wait() for run in runs] == [0] * 16
    assert len(ledger.records()) == 16


def test_a_full_ledger_is_rotated(world: World, box: Path, ledger: Ledger) -> None:
    script = world.script(box, "true")
    ledger.run("eka-run", "--record", script)
    old = ledger.file.with_name("runs.jsonl.1")
    for mark in (b"first\n", b"second\n"):
        with ledger.file.open("ab") as stream:
            stream.write(b"\n" * (8 << 20) + mark)
        runs = [world.popen("eka-run", "--record", script, env=ledger.env) for _ in range(4)]
        assert [run.wait() for run in runs] == [0] * 4
        assert old.read_bytes().endswith(mark)
        assert len(ledger.records()) == 4
    assert old.stat().st_mode & 0o777 == 0o600


def test_a_ledger_that_cannot_be_written_is_a_warning(
    world: World, box: Path, ledger: Ledger
) -> None:
    script = world.script(box, "echo ran")
    ledger.file.mkdir(parents=True)
    done = ledger.run("eka-run", "--record", script)
    assert (done.status, done.out) == (0, b"ran\n")
    assert done.err.startswith(b"warning: this run is not recorded in ")


def test_a_sandbox_cannot_write_it(world: World, box: Path, ledger: Ledger) -> None:
    ledger.file.parent.mkdir(parents=True)
    os.chown(ledger.file.parent, world.user.uid, world.user.gid)
    script = world.script(box, "true", f'write = ["{ledger.file.parent}"]')
    assert ledger.run(script).status == 42


def test_the_newest_runs_are_shown_last(world: World, box: Path, ledger: Ledger) -> None:
    for number in range(3):
        script = world.script(box, f"exit {number}", name=f"run-{number}\x1b[2J")
        assert ledger.run("eka-run", "--record", script).status == number
    with ledger.file.open("ab") as stream:
        stream.write(b'{"version":2}\n{"version":1,"fi\n')
    shown = ledger.run("eka", "log", "--runs", "--limit", "2")
    header, *lines = shown.out.decode().splitlines()
    assert header.split() == ["START", "TIME", "END", "MEMORY", "TIER", "WHAT"]
    assert [line.split()[-1].rpartition("/")[2] for line in lines] == ["run-1�[2J", "run-2�[2J"]
    assert b"2 lines of the ledger make no sense" in shown.err
    all_of_them = ledger.run("eka", "log", "--runs", "--json").out.splitlines()
    assert [json.loads(line)["status"] for line in all_of_them] == [0, 1, 2]


def test_a_log_needs_a_build(world: World) -> None:
    done = world.run("eka", "log")
    assert done.status == 2
    assert b"eka log --runs" in done.err
    done = world.run("eka", "log", world.greet)
    assert done.status == PathNotFound.exit_code
    assert b"no log of" in done.err


def test_recording_imports_little(world: World, box: Path, ledger: Ledger) -> None:
    script = world.script(box, "true")
    assert ledger.run("eka-run", "--record", script, cwd=box).status == 0
    stub = (world.bin / "eka-run").read_text()
    code = stub.split("-ISE -c '")[1].split("'")[0]
    (site,) = (world.bin.parent / "lib").glob("python3.*/site-packages")
    words = ("-c", code, str(site), "--record", str(script))
    bare = imported(world, "-c", "import sys; pass", cwd=box)
    recording = imported(world, *words, cwd=box, env=ledger.env)
    assert recording - bare <= ALLOWED | {"eka.ledger", "resource", "time"}
    assert {"eka.ledger", "resource"} <= recording
