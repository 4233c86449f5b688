"""A daemon beside a run: a process that serves the store to the bundle, and ends after it.

    eka            enters the bundle, and waits for both
    └── server     eka_runtime.daemon on a socket in the store's tmp/, until a pipe is closed

The socket's name is another one each time, and a bundle has to be the same: so bundles name SOCKET,
and the start puts the real name in its place. Constraint: forks, so it has to come before threads.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from eka_runtime.closing import Closing
from eka_runtime.errors import EkaError, StoreAccessError
from eka_runtime.runtime.planned import Plan
from eka_runtime.store.layout import Layout

if TYPE_CHECKING:
    from eka_runtime.build.workbench import Workbench

SOCKET = "/eka-session/socket"
"""Stands for the socket as the source of a mount."""

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

Say = Callable[[str], None]


def with_socket(plan: Plan, place: Path) -> Plan:
    """The plan with the real socket in place of SOCKET."""
    stand_in, real = json.dumps(SOCKET).encode(), json.dumps(os.fspath(place)).encode()
    template = (
        piece if isinstance(piece, str) else piece.replace(stand_in, real)
        for piece in plan["template"]
    )
    changed = plan.copy()
    changed["template"] = tuple(template)
    return changed


class Served(Closing):
    """A server at work. Once it is closed, everything that was added is durable."""

    def __init__(self, place: Path, child: int, lifeline: int) -> None:
        self.place = place
        """The socket."""
        self._child = child
        self._lifeline = lifeline

    def close(self) -> None:
        if self._child:
            os.close(self._lifeline)
            os.waitpid(self._child, 0)
            self._child = 0
            with suppress(FileNotFoundError):
                self.place.unlink()


def served(layout: Layout, say: Say, workbench: Callable[[], Workbench] | None = None) -> Served:
    """Serves until it is closed.

    `say` is told what goes wrong; with a `workbench` it builds. Raises StoreAccessError when there
    can be no socket.
    """
    listening, place = _listening(layout)
    with listening:
        try:
            sys.stdout.flush()
            reading, lifeline = os.pipe()
            child = os.fork()
        except BaseException:
            place.unlink()
            raise
        if child == 0:
            os.close(lifeline)
            _serve(layout, listening, reading, say, workbench)
        os.close(reading)
    return Served(place, child, lifeline)


def _listening(layout: Layout) -> tuple[socket.socket, Path]:
    """In the store's tmp/, however long the name of that is: unix(7) takes 107 bytes."""
    place = layout.tmp / os.urandom(16).hex()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fd = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            made.bind(f"/proc/self/fd/{fd}/{place.name}")
        finally:
            os.close(fd)
        os.chmod(place, 0o600)
        made.listen(socket.SOMAXCONN)
    except OSError as error:
        made.close()
        with suppress(FileNotFoundError):
            place.unlink()
        raise StoreAccessError(f"cannot listen on `{place}`: {error.strerror}") from error
    return made, place


def _serve(
    layout: Layout,
    listening: socket.socket,
    reading: int,
    say: Say,
    workbench: Callable[[], Workbench] | None,
) -> NoReturn:
    from eka_runtime.daemon.server import Server
    from eka_runtime.store.store import Store
    from eka_runtime.view.live import growing

    status = 1
    try:
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)  # the program gets them
        with growing(layout) as view:
            server = Server(lambda: Store.open(layout.root), listening, say, view, workbench)
            threading.Thread(target=_end_with, args=(reading, server.end), daemon=True).start()
            server.serve()
        status = 0
    except EkaError as error:
        say(str(error))
    finally:
        os._exit(status)


def _end_with(reading: int, end: Callable[[], None]) -> None:
    os.read(reading, 1)
    end()
