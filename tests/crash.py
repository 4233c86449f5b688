"""Processes that die: where they mean to, or when a test kills them.

Python starts too slowly for thousands of deaths, so one process imports everything and forks
(`nursery`). Its children print whole lines; what one printed before it died is in `Child.lines`
when its death is known.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from sqlite3 import Connection
from typing import NoReturn

from tests.installed import REPOSITORY

Print = Callable[[str], None]
Work = Callable[[list[str], Print], None]
"""What a child does; gets its arguments, and what prints one line."""

_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.mkdir")


def die_at(number: int, connection: Connection) -> None:
    """From now on, this process kills itself right before the change of this number.

    Changes are transactions and commits of the connection, and whatever moves or removes a file;
    one of a process that it forked to help is the end of both.
    """
    left, ours = number, os.getpid()

    def step() -> None:
        nonlocal left
        if not left:
            os.kill(ours, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def trace(statement: str) -> None:
        if statement.startswith(("begin", "commit")):
            step()

    def audit(event: str, arguments: object) -> None:
        if event in _CHANGES:
            step()

    connection.set_trace_callback(trace)
    sys.addaudithook(audit)


class Lines:
    """Whole lines from a descriptor, of which it can be told whether one is there."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._data = b""

    def take(self) -> Iterator[str]:
        """Those that have come, at least one, or none at the end; waits for the first."""
        while b"\n" not in self._data:
            more = os.read(self.fd, 1 << 16)
            if not more:
                return
            self._data += more
        *whole, self._data = self._data.split(b"\n")
        yield from (line.decode() for line in whole)


class Child:
    """`lines` are those it has printed so far; `status` is that of Popen: -9 when it was killed."""

    def __init__(self, nursery: Nursery, number: int) -> None:
        self.lines: list[str] = []
        self.status: int | None = None
        self._nursery = nursery
        self._number = number

    def kill(self) -> None:
        """It is dead when this returns; it may have been before."""
        self._nursery.ask(f"kill {self._number}")
        self.wait()

    def wait(self) -> int:
        while self.status is None:
            self._nursery.listen()
        return self.status


class Nursery:
    """The end of it that starts children and hears of them."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process = process
        self._lines = Lines(process.stdout.fileno())
        self._children: list[Child] = []

    def start(self, *arguments: str | os.PathLike[str]) -> Child:
        child = Child(self, len(self._children))
        self._children.append(child)
        words = "\t".join(os.fspath(word) for word in arguments)
        self.ask(f"start {len(self._children) - 1} {words}")
        return child

    def ask(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def listen(self, seconds: float | None = None) -> bool:
        """Hears what there is to hear; False when there was nothing in time."""
        if not select.select([self._lines.fd], [], [], seconds)[0]:
            return False
        heard = list(self._lines.take())
        assert heard, "the nursery has died"
        for line in heard:
            number, kind, text = line.split(" ", 2)
            child = self._children[int(number)]
            if kind == "ended":
                child.status = int(text)
            else:
                child.lines.append(text)
        return True


@contextmanager
def nursery(module: str) -> Iterator[Nursery]:
    """Its children do `module.work`. All are dead at the end."""
    code = f"from tests.crash import serve; from {module} import work; serve(work)"
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=pipe,
        stdout=pipe,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    with process:
        try:
            yield Nursery(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def serve(work: Work) -> NoReturn:
    """The other end; ends with its stdin, and takes its children along."""
    commands, children = Lines(0), dict[int, tuple[int, int]]()  # pidfd -> pid, number
    while True:
        ready, _, _ = select.select([0, *children], [], [])
        for fd in ready:
            if fd:
                pid, number = children.pop(fd)
                os.close(fd)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                _print(number, "ended", str(status))
                continue
            lines = list(commands.take())
            if not lines:
                os.killpg(0, signal.SIGKILL)
            for line in lines:
                _obey(line.split(" ", 2), work, children)


def _obey(words: list[str], work: Work, children: dict[int, tuple[int, int]]) -> None:
    number = int(words[1])
    if words[0] == "kill":
        for pid, one in children.values():
            if one == number:
                os.kill(pid, signal.SIGKILL)
        return
    pid = os.fork()
    if not pid:
        _be_born(work, words[2].split("\t"), number)
    children[os.pidfd_open(pid)] = (pid, number)


def _be_born(work: Work, arguments: list[str], number: int) -> NoReturn:
    status = 1
    try:
        work(arguments, lambda text: _print(number, "line", text))
        status = 0
    except BaseException:
        _print(number, "line", f"failed {traceback.format_exc()[-3000:]!r}")
    finally:
        os._exit(status)


def _print(number: int, kind: str, text: str) -> None:
    # Less than PIPE_BUF, so lines of several children cannot mix: pipe(7).
    os.write(1, f"{number} {kind} {text}\n".encode()[:4096])
