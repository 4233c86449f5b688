"""`eka nix`: the host's Nix in a bundle, with the store and a daemon, as every kind of user."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.cli.world import Done, World
from tests.requirements import require

_READ_BACK = """
let
  file = builtins.toFile "file" "added just now";
  drv = derivation { name = "d"; system = "any"; builder = "/bin/sh"; inherit file; };
in [ (builtins.readFile file) (builtins.pathExists drv.drvPath) (builtins.readFile "${./source}") ]
"""


@pytest.fixture(autouse=True)
def _nix() -> None:
    require("nix-instantiate")


@pytest.fixture
def home(world: World, box: Path) -> Path:
    return world.directory(f"{box.name}-data")


def _nix_run(world: World, box: Path, home: Path, *words: str | Path) -> Done:
    return world.run("eka", "nix", "--", *words, cwd=box, env={"XDG_DATA_HOME": os.fspath(home)})


def _text(world: World, box: Path, home: Path, *words: str | Path) -> str:
    done = _nix_run(world, box, home, *words)
    assert done.status == 0, done.err.decode()
    return done.out.decode().rstrip("\n")


def test_what_is_added_can_be_read_at_once(world: World, box: Path, home: Path) -> None:
    world.file(box / "source", "a file here")
    world.file(box / "read.nix", _READ_BACK)
    words = ("nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode", "read.nix")
    assert _text(world, box, home, *words) == '["added just now",true,"a file here"]'


def test_results_are_roots_and_packages(world: World, box: Path, home: Path) -> None:
    words = ("nix-store", "--realise", world.greet, "--add-root", box / "result", "--indirect")
    assert _text(world, box, home, *words) == os.fspath(box / "result")
    assert os.readlink(box / "result") == world.greet
    ran = world.run("eka", "run", "./result/bin/greet", "you", cwd=box)
    assert ran.out.startswith(b"Hello, you!")
    roots = world.run("eka", "store", "root", "list").out.decode()
    assert f"{box}/result" in roots
    asked = _text(world, box, home, "nix-store", "-q", "--roots", world.greet)
    assert f"{box}/result -> {world.greet}" in asked.splitlines()


def test_nothing_else_of_the_host_is_there(world: World, box: Path, home: Path) -> None:
    world.file(box / "look.nix", 'builtins.attrNames (builtins.readDir "/etc")')
    words = ("nix-instantiate", "--eval", "--strict", "--json", "look.nix")
    assert _text(world, box, home, *words) == '["group","hosts","nsswitch.conf","passwd"]'


def test_the_status_is_that_of_nix(world: World, box: Path, home: Path) -> None:
    done = _nix_run(world, box, home, "nix-instantiate", "--eval", "-E", 'throw "no"')
    assert done.status == 1
    assert b"error: no" in done.err
    assert _nix_run(world, box, home, "nix-nothing").status == 127


def test_its_home_is_kept(world: World, box: Path, home: Path) -> None:
    channel = "nix-channel"
    _text(world, box, home, channel, "--add", "http://127.0.0.1:1/some", "some")
    assert _text(world, box, home, channel, "--list") == "some http://127.0.0.1:1/some"


# Nix ends with a status, others die of the signal, and the launcher with them.
@pytest.mark.parametrize("program", ["nix-store --import", "cat"])
def test_an_interrupt_leaves_nothing(world: World, box: Path, home: Path, program: str) -> None:
    os.mkfifo(box / "fifo")
    os.chown(box / "fifo", world.user.uid, world.user.gid)
    words = ("/bin/sh", "-c", f"exec {program} <fifo")
    environ = {"XDG_DATA_HOME": os.fspath(home)}
    with world.popen(
        "eka", "nix", "--", *words, cwd=box, env=environ, start_new_session=True
    ) as process:
        writing = _opened_by(process, box / "fifo")
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        os.close(writing)
    assert process.returncode != 0
    assert os.listdir(world.place / "store" / "tmp") == []


@contextmanager
def _daemon_of_eka(world: World, box: Path) -> Iterator[str]:
    """Another one, with a store of its own, in `box`."""
    words = ("--json", "--store", box / "other", "daemon", "--socket", box / "socket")
    with world.popen("eka", *words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline())["url"])
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()
    verified = world.run("eka", "--store", box / "other", "store", "verify", "--deep")
    assert verified.status == 0, verified.out


@contextmanager
def _daemon_of_nix(world: World, box: Path) -> Iterator[str]:
    environ = {
        "NIX_CONFIG": "build-users-group =\nsubstituters =",
        "NIX_DAEMON_SOCKET_PATH": os.fspath(box / "socket"),
        "NIX_REMOTE": f"local?root={box}/other",
    }
    require("nix-daemon")
    with world.popen("nix-daemon", "--daemon", env=environ, stderr=subprocess.PIPE) as process:
        try:
            while not (box / "socket").is_socket():
                assert process.poll() is None
                os.sched_yield()
            # Its name is there just before it listens.
            while "refused" in str(_connects(box / "socket")):
                os.sched_yield()
            yield f"unix://{box}/socket?root={box}/other"
        finally:
            process.terminate()
            process.communicate()


def _connects(place: Path) -> OSError | None:
    with socket.socket(socket.AF_UNIX) as made:
        try:
            made.connect(os.fspath(place))
        except OSError as error:
            return error
    return None


@pytest.mark.parametrize("kind", [_daemon_of_eka, _daemon_of_nix])
def test_a_daemon_that_runs_already(
    world: World, box: Path, home: Path, kind: Callable[[World, Path], AbstractContextManager[str]]
) -> None:
    world.file(box / "source", box.name)
    world.file(box / "read.nix", _READ_BACK)
    words = ("--eval", "--strict", "--json", "--read-write-mode", "read.nix")
    with kind(world, box) as url:
        environ = {"XDG_DATA_HOME": os.fspath(home), "EKA_DAEMON": url}
        done = world.run("eka", "nix", "--", "nix-instantiate", *words, cwd=box, env=environ)
        assert done.out.decode().rstrip() == f'["added just now",true,"{box.name}"]', done.err
        flag = ("eka", "nix", "--daemon", url, "--")
        added = world.run(*flag, "nix-store", "--add", "source", cwd=box).out.decode().rstrip()
        root = ("nix-store", "--realise", added, "--add-root", "result", "--indirect")
        assert world.run(*flag, *root, cwd=box).status == 0
        roots = world.run(*flag, "nix-store", "-q", "--roots", added, cwd=box).out.decode()
        assert roots.rstrip() == f"{box}/result -> {added}"
        # Nothing of that came into the store that is in force.
        assert world.run("eka", "store", "info", added).status == 20
        refused = world.run("eka", "nix", "-p", world.greet, *flag[2:], "nix-store")
        assert refused.status == 2
        assert b"another daemon's is shown" in refused.err


def _opened_by(process: subprocess.Popen[bytes], fifo: Path) -> int:
    """For writing, when the process reads from it: then everything is at work."""
    while process.poll() is None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            os.sched_yield()
    raise AssertionError(f"it has ended with status {process.returncode}")
