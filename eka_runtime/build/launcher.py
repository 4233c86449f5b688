"""The process that starts builds: a small Python that forks once for each, and reaps them.

A bundle's launcher takes over its process and wants it single-threaded, while a scheduler has
threads; and to start Python for each build would cost more than the build. So one of these is
started per scheduler (`spawn.py` is the other end of its socket).

    request   ("start", number) with descriptors [memory file of (plan, args, env), output]
              ("kill", number)
    reply     ("ended", number, started, status); -n for signal n

Nothing outlives the scheduler: launchers are signalled by the kernel when its end of `life`, a
pipe, is closed, however that comes; this process ends the others, and itself, with the socket.

CONSTRAINT: as `enter.py`, imports little, so that forking is quick.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import fcntl
import marshal
import posix
import select

from eka_runtime.runtime.enter import enter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

MAX_PACKET = 4096
_F_SETSIG = 10  # <asm-generic/fcntl.h>
_FDS = 8  # bytes of two descriptors


class _Child:
    def __init__(self, number: int, pid: int, report: int, outer: bool) -> None:
        self.number, self.pid, self.report, self.outer = number, pid, report, outer

    def kill(self) -> None:
        """Everything of the build. Outside the outer mode the runtime is killed, which makes the
        launcher remove the container."""
        if self.outer:
            posix.kill(self.pid, _signal.SIGKILL)
            return
        for child in _children(self.pid) or [self.pid]:
            try:
                posix.kill(child, _signal.SIGKILL)
            except ProcessLookupError:
                continue  # it has ended since, and its launcher with it


def main(control: int, life: int) -> NoReturn:
    """Serves until the other end of `control` is closed."""
    socket = _socket.socket(fileno=control)
    poll, children = select.poll(), dict[int, _Child]()
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != control:
                poll.unregister(fd)
                _reap(socket, fd, children.pop(fd))
                continue
            try:
                packet, ancillary, _, _ = socket.recvmsg(MAX_PACKET, _socket.CMSG_SPACE(_FDS))
            except ConnectionError:
                packet, ancillary = b"", []
            if not packet:
                _end(children)
            kind, number = marshal.loads(packet)
            if kind == "kill":
                for child in children.values():
                    if child.number == number:
                        child.kill()
                continue
            request, output = _descriptors(ancillary)
            pidfd, child = _start(number, request, output, life, control)
            children[pidfd] = child
            poll.register(pidfd, select.POLLIN)


def _descriptors(ancillary: list[Any]) -> tuple[int, int]:
    data = ancillary[0][2]
    first, second = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4))
    return first, second


def _start(number: int, request: int, output: int, life: int, control: int) -> tuple[int, _Child]:
    plan, args, env = marshal.loads(_read_all(request))
    posix.close(request)
    reading, writing = posix.pipe2(posix.O_CLOEXEC)
    pid = posix.fork()
    if pid == 0:
        try:
            posix.close(control)
            _be_launcher(plan, args, env, output, writing, life)
        finally:
            posix._exit(125)
    posix.close(output)
    posix.close(writing)
    return posix.pidfd_open(pid), _Child(number, pid, reading, plan["mode"] == "outer")


def _be_launcher(
    plan: Any, args: list[bytes], env: list[bytes], output: int, report: int, life: int
) -> None:
    null = posix.open("/dev/null", posix.O_RDONLY)
    posix.dup2(null, 0)
    posix.dup2(output, 1)
    posix.dup2(output, 2)
    posix.close(output)
    if plan["mode"] == "outer":
        # The kernel signals the owner of a pipe's end when the other end is closed. An owner is
        # one of an open file, so that each launcher opens it for itself.
        life = posix.open(f"/proc/self/fd/{life}", posix.O_RDONLY | posix.O_CLOEXEC)
        fcntl.fcntl(life, fcntl.F_SETOWN, posix.getpid())
        fcntl.fcntl(life, _F_SETSIG, _signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | fcntl.FASYNC)
        if select.select([life], [], [], 0)[0]:
            return  # it was closed before
    status = enter(plan, args, env, lambda code: _report(report, code))
    posix._exit(status)


def _report(report: int, code: int) -> None:
    posix.write(report, b"%d" % code)


def _reap(socket: Any, pidfd: int, child: _Child) -> None:
    posix.close(pidfd)
    status = posix.waitstatus_to_exitcode(posix.waitpid(child.pid, 0)[1])
    told = posix.read(child.report, 16)
    posix.close(child.report)
    message = ("ended", child.number, bool(told), int(told or status))
    try:
        socket.send(marshal.dumps(message))
    except ConnectionError:
        return  # the next look at the socket ends it all


def _end(children: dict[int, _Child]) -> NoReturn:
    for child in children.values():
        child.kill()
    for child in children.values():
        posix.waitpid(child.pid, 0)
    posix._exit(0)


def _children(pid: int) -> list[int]:
    try:
        return [int(text) for text in _read_path(f"/proc/{pid}/task/{pid}/children").split()]
    except OSError:
        return []


def _read_path(path: str) -> bytes:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    data = posix.read(fd, 1 << 16)
    posix.close(fd)
    return data


def _read_all(fd: int) -> bytes:
    size = posix.fstat(fd).st_size
    parts, at = [], 0
    while at < size:
        parts.append(posix.pread(fd, size - at, at))
        at += len(parts[-1])
    return b"".join(parts)
