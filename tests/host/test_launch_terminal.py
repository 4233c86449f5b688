"""Launchers on a terminal: a pseudo-terminal whose other end these tests hold."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cli.world import World
from tests.host.conftest import ENV, TIMEOUT, Box
from tests.host.test_launch_signals import children
from tests.requirements import require

SIZE = (33, 77)

# A terminal interrupts a whole process group; the shell acts on it when its child has ended.
FAMILY = """trap 'echo parent; exit 6' INT
sh -c 'trap "echo child; exit" INT; echo ready; sleep 1000 & wait'
"""


class Terminal:
    """A process that leads a session on a terminal, and what it has printed there."""

    def __init__(self, master: int, slave: int, process: subprocess.Popen[bytes]) -> None:
        self.master = master
        self.slave = slave
        self.process = process

    def type(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.master, data) :]

    def until(self, text: bytes) -> bytes:
        """Reads up to `text`; the alarm of `on_terminal` ends a test in which it never comes."""
        seen = b""
        while text not in seen:
            seen += os.read(self.master, 1)
        return seen

    def finish(self) -> tuple[int, bytes]:
        """The status, and everything not read yet."""
        os.close(self.slave)
        seen = b""
        try:
            while data := os.read(self.master, 1 << 16):
                seen += data
        except OSError:  # EIO: nobody has the terminal open any more
            pass
        return self.process.wait(TIMEOUT), seen

    def resize(self, lines: int, columns: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)


def gave_up(number: int, frame: object) -> None:
    raise TimeoutError("the expected text never appeared on the terminal")


@contextmanager
def on_terminal(box: Box | World, command: Sequence[str], **streams: Any) -> Iterator[Terminal]:
    """Streams not given are the terminal."""
    master, slave = pty.openpty()
    os.set_inheritable(master, False)
    words = [require("setsid"), "--ctty", *command]
    streams = {"stdin": slave, "stdout": slave, "stderr": slave} | streams
    # Only here, where reading a terminal may otherwise block for ever.
    signal.signal(signal.SIGALRM, gave_up)
    signal.alarm(TIMEOUT)
    process = box.user.popen(words, bufsize=0, **streams)
    terminal = Terminal(master, slave, process)
    terminal.resize(*SIZE)
    try:
        yield terminal
    finally:
        signal.alarm(0)
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
        os.close(master)


def script(box: Box, text: str, **more: Any) -> list[str]:
    return box.command(["/bin/sh", "-c", text], **more)


def test_a_program_gets_a_terminal_of_its_own(any_box: Box) -> None:
    text = "test -t 0 && test -t 1 && test -t 2 && tty; stty size; read x; echo got $x; exit 5"
    with on_terminal(any_box, script(any_box, text)) as terminal:
        assert b"/dev/pts/0\r\n33 77\r\n" in terminal.until(b"77\r\n")
        terminal.type(b"hello\n")
        assert terminal.finish() == (5, b"hello\r\ngot hello\r\n")


def test_interrupting_is_up_to_the_inner_terminal(any_box: Box) -> None:
    with on_terminal(any_box, script(any_box, FAMILY)) as terminal:
        terminal.until(b"ready\r\n")
        terminal.type(b"\x03")
        status, output = terminal.finish()
    assert (status, output.split()) == (6, [b"^Cchild", b"parent"])


def test_the_window_may_change_its_size(outer: Box) -> None:
    text = "trap 'stty size; exit 6' WINCH; echo ready; sleep 1000 & wait"
    with on_terminal(outer, script(outer, text)) as terminal:
        terminal.until(b"ready\r\n")
        terminal.resize(11, 22)
        assert terminal.finish() == (6, b"11 22\r\n")


def test_shells_have_job_control(any_box: Box) -> None:
    command = any_box.command(["/bin/sh", "-i"], env=[*ENV, b"PS1=prompt> "])
    with on_terminal(any_box, command) as terminal:
        terminal.until(b"prompt> ")
        terminal.type(b"sh -c 'echo re\"\"ady; sleep 1000'\n")
        terminal.until(b"ready")
        terminal.type(b"\x1a")
        terminal.until(b"Stopped")
        terminal.type(b"exit 9\nexit 9\n")  # the first is warned of the stopped job
        assert terminal.finish()[0] == 9


def test_much_output_is_complete(any_box: Box) -> None:
    with on_terminal(any_box, script(any_box, "seq 1 100000; echo end")) as terminal:
        status, output = terminal.finish()
    assert status == 0
    assert output.split() == [b"%d" % number for number in range(1, 100001)] + [b"end"]


def test_much_input_is_complete(outer: Box) -> None:
    text = b"".join(b"%d\n" % number for number in range(20000))
    with on_terminal(outer, script(outer, "stty -echo; echo ready; sha256sum")) as terminal:
        terminal.until(b"ready\r\n")
        terminal.type(text + b"\x04")
        status, output = terminal.finish()
    expected = subprocess.run([require("sha256sum")], input=text, capture_output=True, check=True)
    assert (status, output.split()) == (0, expected.stdout.split())


def test_what_was_typed_ahead_arrives(outer: Box) -> None:
    with on_terminal(outer, script(outer, "read x; echo got $x")) as terminal:
        terminal.type(b"early\n")
        assert terminal.until(b"got early\r\n")


def test_the_callers_terminal_is_left_as_it_was(any_box: Box) -> None:
    for text, number in (("echo ready; exit 0", 0), ("echo ready; sleep 1000", signal.SIGTERM)):
        with on_terminal(any_box, script(any_box, text)) as terminal:
            before = terminal.modes()
            terminal.until(b"ready\r\n")
            if number:
                terminal.process.send_signal(number)
            assert terminal.process.wait(TIMEOUT) == -number
            assert terminal.modes() == before
            terminal.finish()


def test_a_pipe_among_the_streams_means_no_terminal(any_box: Box) -> None:
    command = script(any_box, "test -t 1 || echo no; read x; echo got $x; exit 3")
    with on_terminal(any_box, command, stdout=subprocess.PIPE) as terminal:
        stdout = terminal.process.stdout
        assert stdout is not None
        assert stdout.readline() == b"no\n"
        before = terminal.modes()
        terminal.type(b"text\n")
        assert stdout.readline() == b"got text\n"
        assert terminal.modes() == before
        assert terminal.finish()[0] == 3


def test_without_a_terminal_of_its_own_a_whole_group_is_interrupted(outer: Box) -> None:
    with on_terminal(outer, script(outer, FAMILY), stdout=subprocess.PIPE) as terminal:
        stdout = terminal.process.stdout
        assert stdout is not None
        assert stdout.readline() == b"ready\n"
        terminal.type(b"\x03")
        assert [stdout.readline(), stdout.readline()] == [b"child\n", b"parent\n"]
        assert terminal.finish()[0] == 6


def test_in_the_background_the_terminal_is_left_alone(outer: Box) -> None:
    command = script(outer, "test -t 0 && tty; echo ready; sleep 1000")
    words = [require("bash"), "-mc", '"$@" & wait', "bash", *command]
    with on_terminal(outer, words) as terminal:
        before = terminal.modes()
        # No /dev/pts/0, as there is no terminal made for it.
        assert b"not a tty" in terminal.until(b"ready\r\n")
        assert terminal.modes() == before
        os.kill(children(terminal.process.pid)[0], signal.SIGKILL)


def test_a_stopped_launcher_gives_the_terminal_back(outer: Box) -> None:
    command = script(outer, "echo ready; read x; echo got $x; exit 4")
    shell = '"$@"; echo status $?; fg; echo status $?'
    words = [require("bash"), "-mc", shell, "bash", *command]
    with on_terminal(outer, words) as terminal:
        before = terminal.modes()
        terminal.until(b"ready\r\n")
        assert terminal.modes() != before
        launcher = children(terminal.process.pid)[0]
        os.kill(launcher, signal.SIGTSTP)
        terminal.until(b"status %d\r\n" % (128 + signal.SIGTSTP))
        terminal.type(b"hello\n")
        assert terminal.until(b"status 4\r\n").endswith(b"got hello\r\nstatus 4\r\n")
        assert terminal.modes() == before


def test_a_terminal_that_goes_away_ends_everything(any_box: Box) -> None:
    reading, writing = os.pipe()
    command = script(any_box, "echo ready; sleep 1000")
    with on_terminal(any_box, command, pass_fds=(writing,)) as terminal:
        os.close(writing)
        terminal.until(b"ready\r\n")
        os.close(terminal.slave)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, terminal.master)  # closes the terminal: it hangs up
        os.close(null)
        assert terminal.process.wait(TIMEOUT) == -signal.SIGHUP
    with open(reading, "rb") as pipe:
        assert pipe.read() == b""


def test_a_program_may_outlive_its_terminal_and_nobody_spins(any_box: Box) -> None:
    command = script(any_box, "trap '' HUP; echo ready; while :; do sleep 1000; done")
    with on_terminal(any_box, command) as terminal:
        terminal.until(b"ready\r\n")
        os.close(terminal.slave)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, terminal.master)
        os.close(null)
        launcher = terminal.process.pid
        for pid in (launcher, *children(launcher)):
            # Who has nothing to do sleeps; who polls what has gone away never does.
            assert "S" in {state(pid) for _ in range(1000)}
        assert terminal.process.poll() is None


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
