"""The scheduler's end of the process that starts builds (`launcher.py`)."""

from __future__ import annotations

import contextlib
import marshal
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

from eka_runtime.closing import Closing
from eka_runtime.errors import LaunchError
from eka_runtime.runtime.planned import Plan

_BOOT = """\
import sys
sys.path[:] = sys.argv[3:]
from eka_runtime.build.launcher import main
main(int(sys.argv[1]), int(sys.argv[2]))
"""
_MAX_PACKET = 4096


class Ended(NamedTuple):
    """`status` is that of the program if it was `started`, -n for signal n; else the launcher's."""

    started: bool
    status: int


class Running:
    """A build under way. `output` is the end of its stdout and stderr, closed with the program."""

    def __init__(self, spawner: Spawner, number: int, output: int) -> None:
        self.output = output
        self._spawner = spawner
        self._number = number
        self._ended: SimpleQueue[Ended] = SimpleQueue()

    def kill(self) -> None:
        """Everything of it; it is gone when `wait` returns. May be called from any thread."""
        self._spawner._ask("kill", self._number, ())

    def wait(self, seconds: float | None = None) -> Ended | None:
        """None if it has not ended by then; how it ended can be asked once."""
        with contextlib.suppress(Empty):
            return self._ended.get(timeout=seconds)
        return None


class Spawner(Closing):
    """May be used from several threads. A context manager, whose end is the end of all builds."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life, self._life = os.pipe()
        paths = [path for path in sys.path if path]
        words = [sys.executable, "-ISE", "-c", _BOOT, str(theirs.fileno()), str(life), *paths]
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), life),
                # What the terminal signals is for the scheduler to act on.
                start_new_session=True,
                env={},
            )
        finally:
            theirs.close()
            os.close(life)
        self._lock = threading.Lock()
        self._running: dict[int, Running] = {}
        self._number = 0
        self._thread = threading.Thread(target=self._listen, name="eka-builds", daemon=True)
        self._thread.start()

    def start(self, plan: Plan, args: Sequence[bytes], env: Sequence[bytes]) -> Running:
        """Raises LaunchError when the process that starts builds is gone."""
        request = os.memfd_create("eka-build")
        reading, writing = os.pipe()
        try:
            with open(os.dup(request), "wb") as file:
                file.write(marshal.dumps((dict(plan), list(args), list(env))))
            with self._lock:
                self._number += 1
                running = Running(self, self._number, reading)
                self._running[self._number] = running
            self._ask("start", running._number, (request, writing))
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(request)
            os.close(writing)
        return running

    def close(self) -> None:
        """Kills what runs, and waits for its end."""
        self._socket.shutdown(socket.SHUT_WR)
        self._process.wait()
        self._thread.join()
        self._socket.close()
        os.close(self._life)

    def _ask(self, kind: str, number: int, fds: tuple[int, ...]) -> None:
        try:
            with self._lock:
                socket.send_fds(self._socket, [marshal.dumps((kind, number))], fds)
        except OSError as error:
            raise LaunchError("the process that starts builds has gone away") from error

    def _listen(self) -> None:
        while packet := self._received():
            _, number, started, status = marshal.loads(packet)
            self._finish(number, Ended(started, status))
        with self._lock:
            left = list(self._running)
        for number in left:
            self._finish(number, Ended(False, -9))

    def _received(self) -> bytes:
        try:
            return self._socket.recv(_MAX_PACKET)
        except ConnectionError:
            return b""

    def _finish(self, number: int, ended: Ended) -> None:
        with self._lock:
            running = self._running.pop(number, None)
        if running is not None:
            running._ended.put(ended)
