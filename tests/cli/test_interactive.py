"""Interactive programs behave as if there was no sandbox: jobs, window size, colors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.world import World
from tests.host.test_launch_terminal import Terminal, on_terminal
from tests.requirements import require

PROMPT = b"prompt> "
OURS = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}


@contextmanager
def shell(world: World, box: Path, *words: str) -> Iterator[Terminal]:
    """`eka shell` at its prompt."""
    command = [os.fspath(world.bin / "eka"), "shell", "-p", world.busybox, *words]
    command += ["--env", f"PS1={PROMPT.decode()}"]
    env = world.environment() | OURS
    with on_terminal(world, command, env=env, cwd=box) as terminal:
        assert b"job control" not in terminal.until(PROMPT)
        yield terminal


def said(terminal: Terminal, line: str) -> str:
    """What a command prints; the shell is at its prompt before and afterwards."""
    terminal.type(line.encode() + b"\n")
    terminal.until(b"\r\n")
    return terminal.until(PROMPT).removesuffix(PROMPT).decode()


@pytest.fixture(params=["crun", "runc"])
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(OURS, "EKA_RUNTIME", request.param)
    return require(request.param)


def test_jobs_stop_and_go_on(world: World, box: Path, runtime: str) -> None:
    world.file(box / "job", "echo started; read x; echo got $x; sleep 1000")
    with shell(world, box) as terminal:
        terminal.type(b"sh ./job\n")
        terminal.until(b"started\r\n")
        terminal.type(b"\x1a")
        assert b"Stopped" in terminal.until(PROMPT)
        assert "Stopped" in said(terminal, "jobs")
        terminal.type(b"fg\n")
        terminal.until(b"sh ./job\r\n")
        terminal.type(b"input\n")
        terminal.until(b"got input\r\n")
        terminal.type(b"\x1a")
        terminal.until(PROMPT)
        said(terminal, "bg")
        assert "Running" in said(terminal, "jobs")
        said(terminal, "kill %1")
        terminal.type(b"exit 7\n")
        assert terminal.finish()[0] == 7


def test_interrupting_leaves_the_shell(world: World, box: Path) -> None:
    with shell(world, box) as terminal:
        terminal.type(b"nonsense\x03")
        terminal.until(PROMPT)
        terminal.type(b"sh -c 'echo st\"\"arted; cat'\n")
        terminal.until(b"started\r\n")
        terminal.type(b"\x03")
        terminal.until(PROMPT)
        assert said(terminal, "echo $?") == "130\r\n"
        terminal.type(b"\x04")
        assert terminal.finish()[0] == 0


def test_the_window_size_is_followed(world: World, box: Path, runtime: str) -> None:
    with shell(world, box) as terminal:
        assert said(terminal, "stty size") == "33 77\r\n"
        terminal.type(
            b"(trap 'stty size; exit' WINCH; echo wa''iting; while :; do sleep 1; done)\n"
        )
        terminal.until(b"waiting\r\n")
        terminal.resize(44, 101)
        assert terminal.until(b"101\r\n") == b"44 101\r\n"
        terminal.until(PROMPT)
        assert said(terminal, "stty size") == "44 101\r\n"


def test_colors_are_those_of_the_terminal(world: World, box: Path) -> None:
    (box / "directory").mkdir()
    with shell(world, box) as terminal:
        assert said(terminal, "echo $TERM $COLORTERM") == "xterm-256color truecolor\r\n"
        assert "\x1b[" in said(terminal, "ls --color=auto")
        assert "\x1b[" not in said(terminal, "ls --color=auto | cat")


def test_the_terminal_is_given_back(world: World, box: Path) -> None:
    with shell(world, box) as terminal:
        terminal.type(b"stty raw -echo\nexit\n")
        assert terminal.process.wait(60) == 0
        assert terminal.modes()[3] & 0o10 != 0  # ECHO
        terminal.finish()


def test_a_script_can_be_stopped_from_outside(world: World, box: Path) -> None:
    """As any job of the caller's own shell: its other commands, then the script goes on."""
    script = world.script(box, "echo started; read x; echo got $x; exit 4")
    bash = [require("bash"), "--norc", "--noprofile", "-i"]
    env = world.environment() | OURS | {"PS1": PROMPT.decode(), "HOME": os.fspath(box)}
    with on_terminal(world, bash, env=env, cwd=box) as terminal:
        terminal.until(PROMPT)
        terminal.type(b"eka-run ./script\n")
        terminal.until(b"started\r\n")
        terminal.type(b"\x1a")
        assert b"Stopped" in terminal.until(PROMPT)
        assert script.name in said(terminal, "jobs")
        terminal.resize(40, 99)
        terminal.type(b"fg\n")
        terminal.until(b"eka-run ./script\r\n")
        terminal.type(b"input\n")
        assert terminal.until(b"got input\r\n")
        terminal.until(PROMPT)
        assert "4\r\n" in said(terminal, "echo $?")


def test_keys_of_full_screen_programs_are_theirs(world: World, box: Path) -> None:
    script = world.script(box, "stty raw -echo; echo started; head -c 2 | od -An -tx1")
    with on_terminal(world, [script], env=world.environment() | OURS, cwd=box) as terminal:
        terminal.until(b"started")
        terminal.type(b"\x1a\x03")
        terminal.until(b" 1a 03")
        assert terminal.finish()[0] == 0
