"""Completion in real shells: lines are typed with a Tab, and the shell says what it made of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.world import World
from tests.host.test_launch_terminal import Terminal, on_terminal
from tests.requirements import require

# As at a prompt: no start-up files, keys as in emacs, nothing asked, no history.
SHELLS = {
    "bash": (
        ["--norc", "--noprofile", "-i"],
        "bind 'set enable-bracketed-paste off'; bind 'set bell-style none'",
    ),
    "zsh": (
        ["-f", "-i"],
        "unsetopt zle_bracketed_paste; bindkey -e; autoload -U compinit; compinit -uD",
    ),
}
# Nobody needs zsh or fish for anything else here: they are tested where they are installed.
PRESENT = ["bash", *filter(shutil.which, ["zsh", "fish"])]
# ^A goes to the beginning of the line: what was completed is printed word by word, not run.
SHOW = b"\x01printf '<%s>' \x05 END\n"


@contextmanager
def at_prompt(world: World, shell: str, place: Path) -> Iterator[Terminal]:
    options, setup = SHELLS[shell]
    env = world.environment() | {"PS1": "", "TERM": "dumb", "HOME": os.fspath(place)}
    with on_terminal(world, [require(shell), *options], env=env, cwd=place) as terminal:
        terminal.type(f"{setup}; source <(eka completion {shell}); echo rea''dy\n".encode())
        terminal.until(b"ready\r\n")
        yield terminal


def completed(terminal: Terminal, line: str) -> list[str]:
    """The words of a line after a Tab at its end."""
    terminal.type(line.encode() + b"\t" + SHOW)
    seen = terminal.until(b"<END>").replace(b"\r", b"").decode()
    return seen.rpartition("\n")[2].removeprefix("<").removesuffix("><END>").split("><")


@pytest.mark.parametrize("shell", PRESENT)
def test_words_are_completed(world: World, box: Path, shell: str) -> None:
    script = world.script(box, "true")
    (box / "result").symlink_to(world.greet)
    busybox, greet = world.busybox, world.greet
    lines = [
        ("eka sto", ["eka", "store"]),
        ("eka store refe", ["eka", "store", "referrers"]),
        ("eka run --interp", ["eka", "run", "--interpreter"]),
        ("eka store info busy", ["eka", "store", "info", busybox]),
        (f"eka store info {greet[:20]}", ["eka", "store", "info", greet]),
        (f"eka run {busybox[:-3]}", ["eka", "run", busybox]),
        (f"eka store ls {greet}/bi", ["eka", "store", "ls", f"{greet}/bin/"]),
        ("eka lock scr", ["eka", "lock", "script"]),
        ("eka shell -p ./res", ["eka", "shell", "-p", "./result"]),
        ("eka completion fi", ["eka", "completion", "fish"]),
        ("eka-run --requ", ["eka-run", "--require-sandbox"]),
        (f"eka-run -p {busybox[:-3]}", ["eka-run", "-p", busybox]),
        ("eka-run --env XDG_CACHE_H", ["eka-run", "--env", "XDG_CACHE_HOME"]),
        ("eka-run --net scr", ["eka-run", "--net", "script"]),
        ("eka-run script --n", ["eka-run", "script", "--n"]),
    ]
    if shell == "bash":
        # There, = and : end a word, too.
        lines += [
            ("eka --color=al", ["eka", "--color=always"]),
            (f"eka-run --package={busybox[:-3]}", ["eka-run", f"--package={busybox}"]),
        ]
    if shell == "fish":
        check_fish(world, script.parent, lines)
        return
    with at_prompt(world, shell, script.parent) as terminal:
        for line, words in lines:
            assert completed(terminal, line) == words, line


def check_fish(world: World, place: Path, lines: list[tuple[str, list[str]]]) -> None:
    """It says what it would complete, without a terminal."""
    asked = "; ".join(f"echo ' {line}'; complete -C '{line}'" for line, _ in lines)
    words = ("fish", "--no-config", "-c", f"eka completion fish | source; {asked}")
    offered: dict[str, set[str]] = {}
    for shown in world.run(*words, cwd=place).out.decode().splitlines():
        if shown.startswith(" "):
            found = offered.setdefault(shown[1:], set())
        else:
            found.add(shown.split("\t")[0])
    for line, expected in lines:
        if expected != line.split():
            assert expected[-1] in offered[line], line


def test_without_a_store_nothing_is_offered(world: World, box: Path) -> None:
    env = {"EKA_STORE": os.fspath(box / "none"), "_EKA_COMPLETE": "bash_complete"}
    done = world.run("eka", env=env | {"COMP_LINE": "eka store info busy"})
    assert (done.status, done.out, done.err) == (0, b"\n", b"")
    assert not (box / "none").exists()


def test_the_store_that_is_named_is_asked(world: World, box: Path) -> None:
    store = world.environment()["EKA_STORE"]
    for line in (
        f"eka store --store {store} info busy",
        f"eka-run --store={store} -p {world.greet}",
    ):
        program = line.split()[0].upper().replace("-", "_")
        env = {"EKA_STORE": os.fspath(box / "none"), "COMP_LINE": line}
        done = world.run("eka", env=env | {f"_{program}_COMPLETE": "bash_complete"})
        assert b"plain,/nix/store/" in done.out, done.err.decode()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_completes_both_programs(world: World, shell: str) -> None:
    done = world.run("eka", "completion", shell)
    assert done.status == 0
    assert b"_EKA_COMPLETE" in done.out
    assert b"_EKA_RUN_COMPLETE" in done.out
    # Asked itself, eka-run would look for a FILE.
    assert b" eka-run)" not in done.out
