"""Scripts over a fuse view: the program sees the closure, and nothing outlives the run."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.world import World
from tests.requirements import require
from tests.views import need_fuse

FUSE = {"EKA_VIEW": "fuse"}
RUNTIMES = ("crun", "runc")


@pytest.fixture(autouse=True)
def _fuse() -> None:
    need_fuse()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_script_sees_its_closure(world: World, box: Path, runtime: str) -> None:
    require(runtime)
    header = f'packages = ["{world.greet}", "{world.busybox}"]'
    script = world.script(box, f'greet "$1"; ls /nix/store; cat {world.other}; exit 3', header)
    done = world.run(script, "you", env=FUSE | {"EKA_RUNTIME": runtime})
    assert done.status == 3, done.err.decode()
    assert done.out.startswith(b"Hello, you!")
    listed = done.out.decode().split("\n")[1:]
    assert os.path.basename(world.greet) in listed
    assert os.path.basename(world.other) not in listed
    assert b"No such file" in done.err
    assert os.listdir(world.place / "store" / "view" / "fuse")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_listings_are_those_of_the_bind_view(world: World, box: Path, runtime: str) -> None:
    require(runtime)
    body = "find /nix/store -mindepth 1 -exec stat -c '%n %F %a %u %g %Y %s %N' {} + | sort"
    script = world.script(box, body, f'packages = ["{world.greet}", "{world.busybox}"]')
    env = {"EKA_RUNTIME": runtime}
    fuse = world.run(script, env=env | FUSE)
    bind = world.run(script, env=env | {"EKA_VIEW": "bind"})
    assert (fuse.status, fuse.err) == (0, b"")
    assert fuse.out == bind.out
    assert fuse.out.count(b"\n") > 250


def test_a_second_start_shows_the_same(world: World, box: Path) -> None:
    script = world.script(
        box, 'echo "$0"; mount | grep -c "on /nix/store type fuse.eka (ro,nosuid,nodev"'
    )
    first, second = world.run(script, env=FUSE), world.run(script, env=FUSE)
    assert first.out == second.out
    assert second.out.endswith(b"\n1\n")


def test_a_program_cannot_reach_the_server(world: World, box: Path) -> None:
    # Signals everything that it may, but itself.
    script = world.script(box, "kill -9 -1 2>&1; echo /proc/[0-9]*; ls /nix/store | wc -l")
    done = world.run(script, env=FUSE)
    assert (done.status, done.err) == (0, b"")
    processes, paths = done.out.decode().splitlines()[-2:]
    assert len(processes.split()) == 1
    assert paths == "1"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_launcher_that_was_killed(world: World, box: Path, how: int) -> None:
    script = world.script(box, "echo ready; sleep 1000 & sleep 1000")
    process = world.popen(script, env=FUSE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    servers = servers_of(process.pid)
    assert len(servers) == 1
    pidfd = os.pidfd_open(servers[0])
    process.send_signal(how)
    # The server has stderr, too: this returns when all are gone.
    process.communicate(timeout=60)
    assert process.returncode in (-how, 128 + how)
    # Readable when it has ended, even if nobody has reaped it.
    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)


def servers_of(launcher: int) -> list[int]:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"fuse_server" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_a_server_that_dies_is_an_error_and_no_wait(world: World, box: Path) -> None:
    script = world.script(box, "echo ready; read line; ls -l /nix/store/*/bin")
    process = world.popen(
        script, env=FUSE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    [server] = servers_of(process.pid)
    os.kill(server, signal.SIGKILL)
    # A program whose own pages are not there any more gets SIGBUS.
    process.communicate(b"\n", timeout=60)
    assert process.returncode != 0


def test_another_mode_says_that_it_cannot(world: World, box: Path) -> None:
    script = world.script(box, "exit 0")
    done = world.run(script, env=FUSE | {"EKA_MODE": "direct"})
    assert done.status == 50
    assert b"the fuse view needs the runtime mode `outer`" in done.err


def test_a_collection_removes_views_that_nobody_wants(world: World, box: Path) -> None:
    store = world.directory("gc-fuse") / "store"
    env = {"EKA_STORE": os.fspath(store), "XDG_CACHE_HOME": os.fspath(store.parent / "cache")}
    tools = world.run("eka", "store", "add", world.file(box / "unused", "x"), env=env)
    assert tools.status == 0
    exported = world.run("eka", "store", "export", world.busybox)
    world.file(box / "closure", exported.out)
    with (box / "closure").open("rb") as stream:
        assert world.run("eka", "store", "import", stdin=stream, env=env).status == 0
    script = world.script(box, "exit 0")
    assert world.run(script, env=env | FUSE).status == 0
    views = store / "view" / "fuse"
    assert len(os.listdir(views)) == 1
    world.run("rm", "-r", store.parent / "cache")
    collected = world.run("eka", "store", "gc", env=env)
    assert collected.status == 0, collected.err.decode()
    assert os.listdir(views) == []
