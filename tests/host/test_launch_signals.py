"""Signals sent to a launcher: passed on once, to whom the kernel would have, and then obeyed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from signal import Signals
from subprocess import PIPE, Popen
from typing import Any

from tests.host.conftest import TIMEOUT, Box

HANDLED = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "WINCH", "40")
FATAL = (Signals.SIGTERM, Signals.SIGINT, Signals.SIGHUP, Signals.SIGQUIT, Signals.SIGUSR1)


def started(box: Box, script: str, **more: Any) -> Popen[bytes]:
    """Runs the script up to its "ready"."""
    process = box.start(script, bufsize=0, **more)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def rest(process: Popen[bytes]) -> bytes:
    output, _ = process.communicate(timeout=TIMEOUT)
    return output


def test_a_program_may_handle_any_signal(any_box: Box) -> None:
    plan = any_box.plan()
    for name in HANDLED:
        if (name, any_box.mode) == ("WINCH", "direct"):
            continue  # an attached runc keeps it for itself, and so does a newer crun
        # `wait` returns at once for a trapped signal; the child lets it wait for ever.
        script = f"trap 'echo caught; exit 7' {name}; echo ready; sleep 1000 & wait"
        process = started(any_box, script, plan=plan)
        process.send_signal(int(name) if name.isdecimal() else Signals[f"SIG{name}"])
        assert rest(process) == b"caught\n"
        assert process.returncode == 7


def test_a_launcher_ends_by_the_signal_that_it_passed_on(box: Box) -> None:
    # Not a shell, which would have handlers of its own.
    command = box.command(["/bin/cat"])
    for number in FATAL:
        process = box.user.popen(command, bufsize=0, stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"ready\n")
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.read() == b""
        assert process.wait(TIMEOUT) == -number
        process.stdin.close()
        process.stdout.close()


def test_a_signal_of_the_programs_own_is_a_status(any_box: Box) -> None:
    """Not passed on by the launcher, so it does not end by it."""
    process = started(any_box, "trap 'kill -KILL $$' TERM; echo ready; sleep 1000 & wait")
    process.terminate()
    assert rest(process) == b""
    assert process.returncode == 128 + Signals.SIGKILL


def test_a_status_that_looks_like_a_signal_is_a_status(outer: Box) -> None:
    process = started(outer, "trap 'exit 143' TERM; echo ready; sleep 1000 & wait")
    process.terminate()
    assert rest(process) == b""
    assert process.returncode == 143


def test_a_signal_before_the_program_is_not_lost(any_box: Box) -> None:
    command = any_box.command(["/bin/sleep", "1000"])
    for _ in range(5):
        process = any_box.user.popen(command)
        process.terminate()
        assert process.wait(TIMEOUT) == -Signals.SIGTERM


def test_what_the_caller_ignores_stays_ignored(any_box: Box) -> None:
    script = "trap 'echo caught; exit 7' HUP TERM; echo ready; sleep 1000 & wait"
    command = any_box.command(["/bin/sh", "-c", script])
    words = ["/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command]
    with any_box.user.popen(words, stdout=PIPE, bufsize=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGHUP)
        # Passed on after the other, the HUP would have been caught first.
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == b""
    assert process.returncode == -signal.SIGUSR1


def test_a_program_cannot_signal_its_init(outer: Box) -> None:
    done = outer.sh("kill -TERM 1; kill -KILL 1; kill -HUP 1; echo alive; exit 3")
    assert (done.returncode, done.stdout) == (3, b"alive\n")


def test_a_stopped_launcher_stops_everything_until_it_is_continued(outer: Box) -> None:
    script = "trap 'echo caught; exit 7' TERM; echo ready; sleep 1000 & wait"
    process = started(outer, script, process_group=0)
    process.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WSTOPSIG(status) == signal.SIGTSTP
    init = children(process.pid)[0]
    # The signals are under way; nothing tells when the last process has obeyed.
    while {state(pid) for pid in descendants(init)} != {"T"}:
        pass
    process.send_signal(signal.SIGCONT)
    process.terminate()
    assert rest(process) == b"caught\n"
    assert process.returncode == 7


def children(pid: int) -> list[int]:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in words]


def descendants(pid: int) -> list[int]:
    found = children(pid)
    return found + [below for child in found for below in descendants(child)]


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"  # the runtime, which was there until just now
