"""The server: sockets, one thread for each connection, and an end that leaves nothing behind.

A socket that eka makes is its user's alone (0600); who else reaches one that was handed over, by a
service manager, is asked for by SO_PEERCRED. A client that vanishes ends its thread, and with it
everything that it had not completed. Memory: what a thread needs, for at most CLIENTS of them.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, TypeVar

from eka_runtime.build.workbench import Workbench
from eka_runtime.daemon.deferred import Everybody
from eka_runtime.daemon.peer import ClientGone, View
from eka_runtime.daemon.session import Session
from eka_runtime.errors import NarError, StoreAccessError, UsageError
from eka_runtime.linux.descriptors import raise_file_limit
from eka_runtime.nix.tokens import BUFFER_SIZE
from eka_runtime.store.store import Store

if TYPE_CHECKING:
    from eka_runtime.cache.supply import Supply

CLIENTS = 512
"""Connections at the same time; more wait to be accepted."""

T = TypeVar("T")
U = TypeVar("U")

_PAUSE = 5  # milliseconds
_FILES = 24  # descriptors that a connection may need
_CREDENTIALS = Struct("iII")  # struct ucred: pid, uid, gid
_FIRST_FD = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_PATH_MAX = 107  # sun_path of unix(7), without its zero

Report = Callable[[str], None]


class Server:
    """Serves the connections of one listening socket, until `end`.

    `view` says of the store that is open for a connection where its client reads files. Additions
    may wait to be committed until `serve` returns: only then may the process end.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        listening: socket.socket,
        report: Report,
        view: Callable[[Store], View],
        workbench: Callable[[], Workbench] | None = None,
        supply: Supply | None = None,
    ) -> None:
        self._open_store = open_store
        self._supply = supply
        self._listening = listening
        self._report = report
        self._view = view
        self._workbench = workbench
        self._room = threading.Semaphore(_clients())
        self._guard = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._ending = False
        self._everybody = Everybody()
        self._trusted = {0, os.geteuid()}

    def serve(self) -> None:
        """Until `end`; returns when the last connection is done. Raises StoreAccessError when
        nobody can be accepted any more."""
        try:
            while (connection := self._accepted()) is not None:
                thread = threading.Thread(target=self._one, args=(connection,), daemon=True)
                with self._guard:
                    self._open[connection] = thread
                    if self._ending:
                        _stop_reading(connection)
                thread.start()
        finally:
            self.end()
            self._wait()

    def end(self) -> None:
        """From any thread: takes no more requests; those under way are answered."""
        with self._guard:
            self._ending = True
            for connection in self._open:
                _stop_reading(connection)
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)

    def _accepted(self) -> socket.socket | None:
        """The next connection, when there is room for it; None at the end."""
        self._room.acquire()
        while True:
            try:
                return self._listening.accept()[0]
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if self._ending:
                    return None
                raise StoreAccessError(
                    f"no client can be accepted any more: {error.strerror}",
                    hint="start the daemon again, with more open files allowed (`ulimit -n`)",
                ) from error

    def _wait(self) -> None:
        while True:
            with self._guard:
                thread = next(iter(self._open.values()), None)
            if thread is None:
                return
            thread.join()

    def _one(self, connection: socket.socket) -> None:
        try:
            with closing(connection):
                self._session(connection)
        finally:
            with self._guard:
                del self._open[connection]
            self._room.release()

    def _session(self, connection: socket.socket) -> None:
        session = Session(
            self._open_store,
            _telling(connection.recv),
            _telling(connection.sendall),
            trusted=_uid(connection) in self._trusted,
            view=self._view,
            pausing=_pausing(connection.fileno()),
            everybody=self._everybody,
            forget=lambda: _forget(connection),
            gone=connection.fileno(),
            workbench=self._workbench,
            supply=self._supply,
        )
        try:
            session.serve()
        except NarError as error:
            self._report(f"a client was cut off: {error}")
        except ClientGone as error:
            if str(error):
                self._report(str(error))
        except OSError as error:
            self._report(f"a client was cut off: {error}")


def serve_stdio(
    open_store: Callable[[], Store],
    workbench: Callable[[], Workbench] | None = None,
    supply: Supply | None = None,
) -> None:
    """One client, which is whoever started us: on standard input and output, as ssh has them.

    Raises NarError for bytes that make no sense.
    """
    session = Session(
        open_store,
        _telling(lambda size: os.read(0, min(size, BUFFER_SIZE))),
        _telling(_write_out),
        trusted=True,
        view=lambda store: None,
        pausing=_pausing(0),
        gone=0,
        workbench=workbench,
        supply=supply,
    )
    with suppress(ClientGone):
        session.serve()


def _telling(call: Callable[[T], U]) -> Callable[[T], U]:
    """The same with ClientGone for every OSError: those of the store are another matter."""

    def told(argument: T) -> U:
        try:
            return call(argument)
        except OSError:
            raise ClientGone from None

    return told


def _pausing(fd: int) -> Callable[[], bool]:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return lambda: not poll.poll(_PAUSE)


def _clients() -> int:
    return max(1, min(CLIENTS, raise_file_limit() // _FILES))


def _write_out(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket of our own at `path`, which is removed at the end.

    Takes the place of one that nobody listens on. Raises UsageError when somebody does, or what is
    there is no socket, and StoreAccessError when it cannot be made.
    """
    if len(os.fsencode(path)) > _PATH_MAX:
        raise UsageError(
            f"the name of a socket has at most {_PATH_MAX} bytes: `{path}` is too long",
            hint="name a shorter one with `--socket`",
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _cannot_listen(path, error) from error
    try:
        _claim(lock, path)
        with closing(_bound(path)) as made:
            yield made
            path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _claim(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"a daemon listens on `{path}` already", hint="name another socket with `--socket`"
        ) from None


def _bound(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"`{path}` exists and is no socket", hint="name another one")
        fresh.unlink(missing_ok=True)
        made.bind(os.fsencode(fresh))
        os.chmod(fresh, 0o600)
        made.listen(socket.SOMAXCONN)
        # Whoever finds the name finds somebody who listens, and nobody else ever could.
        os.rename(fresh, path)
    except OSError as error:
        made.close()
        raise _cannot_listen(path, error) from error
    except BaseException:
        made.close()
        raise
    return made


def _cannot_listen(path: Path, error: OSError) -> StoreAccessError:
    return StoreAccessError(
        f"cannot listen on `{path}`: {error.strerror}",
        hint="name a place that you can write to: `--socket PATH`",
    )


def activated(environ: Mapping[str, str]) -> socket.socket | None:
    """The listening socket that a service manager has handed over: sd_listen_fds(3)."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if environ.get("LISTEN_FDS") != "1":
        raise UsageError("one socket is needed, the service manager has handed over several")
    os.set_inheritable(_FIRST_FD, False)
    found = socket.socket(fileno=_FIRST_FD)
    if found.family != socket.AF_UNIX or found.type != socket.SOCK_STREAM:
        raise UsageError(
            "the socket of the service manager is no Unix stream socket",
            hint="use `ListenStream=/PATH`",
        )
    return found


def _uid(connection: socket.socket) -> int:
    """Of whoever connected."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(data)[1]
    return uid


def _forget(connection: socket.socket) -> None:
    with suppress(BlockingIOError):
        while connection.recv(BUFFER_SIZE, socket.MSG_DONTWAIT):
            pass


def _stop_reading(connection: socket.socket, how: int = socket.SHUT_RD) -> None:
    with suppress(OSError):
        connection.shutdown(how)
