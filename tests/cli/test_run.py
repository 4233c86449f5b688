"""Scripts and programs started by `eka-run` and `eka run`, as every kind of user."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.cli.world import World
from tests.requirements import require

RUNTIMES = ("crun", "runc")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_script_runs_by_its_shebang(world: World, box: Path, runtime: str) -> None:
    require(runtime)
    script = world.script(box, 'greet "$1"', f'packages = ["{world.greet}", "{world.busybox}"]')
    done = world.run(script, "world", env={"EKA_RUNTIME": runtime})
    assert (done.status, done.err) == (0, b"")
    assert done.out == f"Hello, world! I live in {world.greet}/bin/greet\n".encode()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_store_shows_the_closure_and_nothing_else(
    world: World, box: Path, runtime: str
) -> None:
    header = f'packages = ["{world.greet}", "{world.busybox}"]'
    script = world.script(box, f"ls /nix/store; cat {world.other}", header)
    done = world.run(script, env={"EKA_RUNTIME": runtime})
    listed = done.out.decode().split()
    assert len(listed) == 3
    assert os.path.basename(world.greet) in listed
    assert os.path.basename(world.other) not in listed
    assert done.status == 1
    assert b"No such file" in done.err


def test_packages_may_be_links(world: World, box: Path) -> None:
    (box / "result").symlink_to(world.greet)
    script = world.script(box, "greet you", 'packages = ["./result"]')
    assert world.run(script).out.startswith(b"Hello, you!")


def test_second_line_flags_are_a_header_too(world: World, box: Path) -> None:
    text = f"#!/usr/bin/env eka-run\n#!eka-run -p {world.greet}\ngreet flags\n"
    script = world.file(box / "script", text, 0o755)
    assert world.run(script).out.startswith(b"Hello, flags!")


def test_a_script_without_header_gets_the_paths_it_mentions(world: World, box: Path) -> None:
    text = (
        f"#!{world.busybox}/bin/sh\n{world.greet}/bin/greet scan; {world.busybox}/bin/ls /nix/store"
    )
    script = world.file(box / "script", text, 0o755)
    done = world.run("eka-run", script)
    assert done.out.startswith(b"Hello, scan!")
    assert done.out.count(b"\n") == 4


def test_an_elf_binary_runs(world: World, box: Path) -> None:
    binary = world.file(box / "busybox", Path(require("busybox")).read_bytes(), 0o755)
    done = world.run("eka-run", binary, "echo", "a static program")
    assert (done.status, done.out) == (0, b"a static program\n")


def test_run_starts_programs_of_store_paths(world: World) -> None:
    assert world.run("eka", "run", world.greet, "path").out.startswith(b"Hello, path!")
    program = f"{world.busybox}/bin/echo"
    assert world.run("eka", "run", program, "-n", "--help").out == b"--help"
    done = world.run("eka", "run", "-p", world.busybox, "printf", "%s|", "a", "b c")
    assert done.out == b"a|b c|"


def test_the_caller_stays_himself(world: World, box: Path) -> None:
    script = world.script(box, 'id -u; id -un; id -gn; pwd; echo "$USER $HOME"; echo x > made')
    done = world.run(script, cwd=box, env={"EKA_RUNTIME": "crun"})
    user = world.user
    uid, name, group, cwd, variables = done.out.decode().splitlines()
    assert (uid, name, cwd) == (str(user.uid), user.name, str(box))
    assert variables == f"{user.name} {user.home}"
    assert (box / "made").stat().st_uid == user.uid
    assert group


def test_arguments_are_exact(world: World, box: Path) -> None:
    script = world.script(box, 'for a in "$0" "$@"; do printf "%s\\0" "$a"; done')
    words = [
        b"",
        b"two words",
        b"new\nline\n",
        b"-x",
        b"--",
        b'"\\$`',
        b"\xff\xfe not utf-8\n",
        b"\n",
    ]
    done = world.run(os.fsencode(script), *words)
    assert done.out.split(b"\0")[:-1] == [os.fsencode(script), *words]
    assert done.err == b""


def test_a_relative_name_stays_as_typed(world: World, box: Path) -> None:
    world.script(box, 'echo "$0"')
    assert world.run("./script", cwd=box).out == b"./script\n"
    assert world.run("eka-run", "script", cwd=box).out == b"script\n"


@pytest.mark.parametrize("status", [0, 1, 2, 42, 125, 126, 127, 128, 137, 255])
def test_statuses_pass_through(world: World, box: Path, status: int) -> None:
    script = world.script(box, 'exit "$1"')
    assert world.run(script, str(status)).status == status


@pytest.mark.parametrize("name", ["TERM", "SEGV", "KILL", "USR1"])
def test_death_by_a_signal_is_what_a_shell_says(world: World, box: Path, name: str) -> None:
    script = world.script(box, f"kill -{name} $$")
    number = signal.Signals[f"SIG{name}"]
    assert world.run(script).status == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_program(world: World, box: Path, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = world.script(box, f"trap 'echo caught; exit 7' {name}\necho ready\nread x")
    with world.popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.read() == b"caught\n"
        assert process.wait() == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_unhandled_signal_ends_eka_run_itself(
    world: World, box: Path, number: signal.Signals
) -> None:
    script = world.script(box, "echo ready\nexec cat")
    with world.popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait() == -number


def test_a_gigabyte_passes_through(world: World, box: Path) -> None:
    script = world.script(box, "exec cat")
    block = bytes(range(256)) * 4096
    wanted, found = hashlib.blake2b(), hashlib.blake2b()
    with world.popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def feed() -> None:
            with stdin:
                for number in range(1024):
                    data = number.to_bytes(8, "little") + block[8:]
                    wanted.update(data)
                    stdin.write(data)

        feeder = threading.Thread(target=feed)
        feeder.start()
        while chunk := stdout.read(1 << 20):
            found.update(chunk)
        feeder.join()
        assert process.wait() == 0
    assert found.digest() == wanted.digest()


def test_the_environment_is_what_was_asked_for(world: World, box: Path) -> None:
    script = world.script(box, "env", 'env = ["GIVEN", "SET=a=b", "ABSENT"]')
    done = world.run(script, env={"GIVEN": "yes \xff", "SECRET": "no"})
    variables = dict(line.split(b"=", 1) for line in done.out.splitlines())
    assert variables[b"GIVEN"] == "yes \xff".encode()
    assert variables[b"SET"] == b"a=b"
    assert b"SECRET" not in variables
    assert b"ABSENT" not in variables
    assert b"EKA_STORE" not in variables


def test_eka_shell_reads_commands(world: World) -> None:
    done = world.run("eka", "shell", "-p", world.greet, input=b"greet shell\nexit 5\n", stdin=None)
    assert done.out.startswith(b"Hello, shell!")
    assert done.status == 5
