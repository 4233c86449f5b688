"""What is left when a program, a runtime or a launcher ends: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from eka_runtime.runtime.init import find_init
from eka_runtime.runtime.launch import KINDS
from tests.host.conftest import TIMEOUT, Box, bind
from tests.host.test_launch_signals import children, started
from tests.requirements import lacking, require

LINK = ["config.json"]  # in the state directory, for every start outside the outer mode


def wait_for_all(process: subprocess.Popen[bytes]) -> None:
    """Until every process that inherited the program's stdout is gone."""
    assert process.stdout is not None
    with process.stdout as stdout:
        stdout.read()
    process.wait(TIMEOUT)


def need_init() -> None:
    init = find_init()
    if init is None or "-p" not in init.options:
        lacking("no static tini, without which a killed launcher leaves its program")


def test_what_runs_in_the_background_ends_with_the_program(box: Box) -> None:
    process = box.start("sleep 1000 & (sleep 1000 & setsid sleep 1000 &) ; exit 3")
    wait_for_all(process)
    assert process.returncode == 3
    assert os.listdir(box.state) == (LINK if box.mode == "direct" else [])


def test_orphans_are_reaped(outer: Box) -> None:
    # Ends only if the orphan's number is free again.
    script = "(sh -c 'echo $$; exit 0' > /tmp/pid &) ; until [ -s /tmp/pid ]; do :; done"
    wait = "while kill -0 $(cat /tmp/pid) 2>/dev/null; do :; done; echo gone"
    assert outer.sh(f"{script}; {wait}").stdout == b"gone\n"


def test_a_killed_launcher_takes_everything_along(box: Box) -> None:
    if box.mode == "direct":
        need_init()
    process = started(box, "echo ready; sleep 1000 & setsid sleep 1000 & sleep 1000")
    process.kill()
    wait_for_all(process)
    assert process.returncode == -signal.SIGKILL
    if box.mode == "direct":
        box.plan()  # sweeps
    assert os.listdir(box.state) == (LINK if box.mode == "direct" else [])


def test_a_killed_runtime_takes_everything_along(direct: Box) -> None:
    process = started(direct, "echo ready; sleep 1000")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    wait_for_all(process)
    assert process.returncode == 128 + signal.SIGKILL
    assert os.listdir(direct.state) == LINK


def test_a_killed_init_takes_everything_along(outer: Box) -> None:
    process = started(outer, "echo ready; sleep 1000 & sleep 1000")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    wait_for_all(process)
    assert process.returncode == 128 + signal.SIGKILL


def test_no_cgroup_is_left(box: Box) -> None:
    process = box.start("exit 5")
    wait_for_all(process)
    assert process.returncode == 5
    assert list(Path("/sys/fs/cgroup").rglob(f"eka-{process.pid}-*")) == []


def test_init_and_its_knowledge_of_the_host_are_out_of_sight(outer: Box) -> None:
    done = outer.sh("ls -d /proc/1; cat /proc/1/mountinfo /proc/1/cmdline; ls /proc/1/root/")
    assert done.stdout == b""
    assert done.returncode != 0


def test_a_program_is_process_1_nowhere(any_box: Box) -> None:
    if any_box.mode == "direct" and find_init() is None:
        lacking("no static init")
    assert any_box.sh("echo $$").stdout.strip() not in (b"", b"1")


def test_without_an_init_the_program_is_process_1(direct: Box) -> None:
    plan = direct.plan() | {"init": ()}
    assert direct.sh("echo $$; exit 5", plan=plan).stdout == b"1\n"


def test_covered_directories_are_empty_for_the_runtime(outer: Box) -> None:
    hidden = outer.place / "hidden"
    hidden.mkdir()
    (hidden / "file").touch()
    plan = outer.plan(mounts=[bind(hidden, "/data", "ro")])
    assert outer.sh("ls -A /data", plan=plan).stdout == b"file\n"
    covered = plan | {"cover": (os.fspath(hidden),)}
    assert outer.sh("ls -A /data", plan=covered).stdout == b""


def test_readonly_trees_are_so_with_everything_mounted_in_them(outer: Box) -> None:
    if not KINDS[outer.runtime].makes_cgroups:
        return  # Those are what it is for; a newer crun makes a bind mount writable again.
    tree = outer.place / "tree"
    (tree / "sub").mkdir(parents=True)
    for path in (tree, tree / "sub"):
        os.chown(path, outer.user.uid, outer.user.gid)
    plan = outer.plan(mounts=[bind(tree, "/data")]) | {"readonly": (os.fspath(tree),)}
    assert outer.sh("touch /data/sub/x || echo denied", plan=plan).stdout == b"denied\n"


def test_a_missing_state_directory_is_made(any_box: Box) -> None:
    state = any_box.place / "deep" / "er" / "state"
    os.chown(any_box.place, any_box.user.uid, any_box.user.gid)
    plan = any_box.plan()
    old, new = os.fspath(any_box.state), os.fspath(state)
    runtime = tuple(word.replace(old, new) for word in plan["runtime"])
    moved = plan | {"state": new, "runtime": runtime}
    assert any_box.sh("exit 4", plan=moved).returncode == 4
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_runtime_that_is_gone_is_reported(any_box: Box) -> None:
    plan = any_box.plan()
    plan["runtime"] = ("/no/such/runtime", *plan["runtime"][1:])
    done = any_box.sh("exit 4", plan=plan)
    assert done.returncode == 125
    assert b"/no/such/runtime" in done.stderr
    assert b"eka doctor" in done.stderr


@pytest.mark.parametrize("limit", ["max_user_namespaces", "max_pid_namespaces"])
def test_a_refused_namespace_changes_nothing(outer: Box, limit: str) -> None:
    command = outer.command(["/bin/true"])
    # Inside a user namespace of his own, anyone may set the limits of those below it.
    script = f'echo 0 > /proc/sys/user/{limit}; exec "$@"'
    done = outer.user.run([require("unshare"), "-Ur", "sh", "-c", script, "sh", *command])
    assert done.stderr == b"error: unshare: No space left on device"
    assert done.returncode == 125
