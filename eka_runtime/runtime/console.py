"""Joins the caller's terminal and the program's own: what an interactive start adds.

In outer mode, and with crun in the others, whose own way of doing it spins when the caller's
terminal goes away and the program does not.

The program gets a pseudo-terminal, made by the runtime and handed over through a socket: with the
caller's own it could push input into his shell (TIOCSTI). The caller's is put into raw mode, so
that ^C and ^Z are bytes that mean something only to the terminal inside, as with ssh. But for ^Z:
a program that no shell inside has started as a job has nobody there who could continue it, so the
kernel would ignore it (setpgid(2), orphaned process groups). Such a program is stopped with its
launcher, as a job of the shell outside.

Constraint: loaded by every start on a terminal; imports as little as enter.py does. Out of scope:
runc in direct and degraded mode, which does the same.
"""

from __future__ import annotations

import posix
import sys
import termios
from _socket import AF_UNIX, CMSG_LEN, SOCK_CLOEXEC, SOCK_STREAM, socket
from fcntl import ioctl
from select import POLLIN, POLLOUT, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eka_runtime.runtime.planned import Launcher

_SFD_FLAGS = posix.O_CLOEXEC | posix.O_NONBLOCK
_SIGINFO = 128  # sizeof(struct signalfd_siginfo): signo, errno and code are its first words
_CHUNK = 1 << 16
_TIOCGSID = 0x5429  # <asm-generic/ioctls.h>


class Console:
    """Made before the runtime starts, so that it finds the socket at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._listener: socket | None = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._master = -1
        self._writable = True  # whether there may be more from the caller
        self._readable = True  # and from the program
        self._typed = b""  # read from the caller, not yet taken by the program
        self._saved: list[int | list[bytes | int]] | None = None

    def run(self, launch: Launcher) -> None:
        """Returns when the child is gone and all its output is written."""
        signals = _signal_fd(launch)
        try:
            while not self._turn(launch, signals):
                pass
            while self._copy_output():
                pass
        finally:
            self._stop_listening()
            self.suspend()

    def _turn(self, launch: Launcher, signals: int) -> bool:
        ready = dict(self._watch(signals).poll())
        if self._listener and self._listener.fileno() in ready:
            self._connect(self._listener)
        if 0 in ready:
            self._typed = _read(0)
            self._writable = self._typed != b""
            self._heed_suspension(launch)
        if ready.get(self._master, 0) & POLLOUT:
            self._copy_input()
        if ready.get(self._master, 0) & ~POLLOUT:
            self._copy_output()
        if signals not in ready:
            return False
        info = posix.read(signals, _SIGINFO)
        code = int.from_bytes(info[8:12], sys.byteorder, signed=True)
        return launch.handle(int.from_bytes(info[:4], sys.byteorder), code)

    def _watch(self, signals: int) -> poll:
        """Nothing more is read from the caller until the program has taken what was."""
        watched = poll()
        watched.register(signals, POLLIN)
        if self._listener:
            watched.register(self._listener, POLLIN)
        if self._master >= 0 and self._readable:
            watched.register(self._master, POLLIN | (POLLOUT if self._typed else 0))
            if self._writable and not self._typed:
                watched.register(0, POLLIN)
        return watched

    def _connect(self, listener: socket) -> None:
        """Takes the pseudo-terminal's master from the runtime."""
        connection = socket(fileno=listener._accept()[0])  # type: ignore[attr-defined]
        _, ancillary, _, _ = connection.recvmsg(4096, CMSG_LEN(4))
        connection.close()
        self._stop_listening()
        if ancillary:
            self._master = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
            posix.set_inheritable(self._master, False)
            posix.set_blocking(self._master, False)
            self.resume()

    def _stop_listening(self) -> None:
        if self._listener:
            posix.unlink(self.path)
            self._listener.close()
            self._listener = None

    def _heed_suspension(self, launch: Launcher) -> None:
        key, echo = self._suspend_key()
        before, found, after = self._typed.partition(key) if key else (b"", b"", b"")
        if not found:
            return
        self._typed = before
        self._copy_input()
        _write_all(echo)
        launch.suspend()
        self._typed += after

    def _suspend_key(self) -> tuple[bytes, bytes]:
        """What suspends the program as a whole and how it is shown; b"" when nothing does.

        Outside of canonical mode, keys are for editors and for shells at their prompt, which are
        not to be stopped.
        """
        try:
            modes = termios.tcgetattr(self._master)
            leader, foreground = (
                ioctl(self._master, question, bytes(4))
                for question in (_TIOCGSID, termios.TIOCGPGRP)
            )
        except (OSError, termios.error):
            return b"", b""
        flags, keys = modes[3], modes[6]
        wanted = termios.ISIG | termios.ICANON
        if leader != foreground or flags & wanted != wanted or keys[termios.VSUSP] == b"\0":
            return b"", b""
        return keys[termios.VSUSP], b"^Z" if flags & termios.ECHO else b""

    def _copy_input(self) -> None:
        try:
            self._typed = self._typed[posix.write(self._master, self._typed) :]
        except BlockingIOError:
            return
        except OSError:
            self._typed = b""

    def _copy_output(self) -> bool:
        """False when there is nothing at the moment, or for good."""
        try:
            _write_all(posix.read(self._master, _CHUNK))
        except BlockingIOError:
            return False
        except OSError:
            # EIO: every process has closed the terminal; the program may go on without one.
            self._readable = False
        return self._readable

    def resize(self) -> None:
        """Gives the inner terminal the outer one's size, which signals the program."""
        if self._master < 0:
            return
        try:
            ioctl(self._master, termios.TIOCSWINSZ, ioctl(0, termios.TIOCGWINSZ, bytes(8)))
        except OSError:
            return  # it has hung up, and SIGHUP says so

    def resume(self) -> None:
        """Raw mode, and the size that the outer terminal has by now."""
        if self._master < 0:
            return
        try:
            modes = termios.tcgetattr(0)
            if self._saved is None:
                self._saved = modes
            termios.tcsetattr(0, termios.TCSADRAIN, raw_modes(modes))
        except (OSError, termios.error):
            return
        self.resize()

    def suspend(self) -> None:
        """Back to the caller's modes, unless someone else has the terminal by now."""
        try:
            if self._saved is not None and posix.tcgetpgrp(0) == posix.getpgrp():
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
                self._saved = None
        except (OSError, termios.error):
            return  # it has hung up


def raw_modes(modes: list[int | list[bytes | int]]) -> list[int | list[bytes | int]]:
    """cfmakeraw(3)."""
    t = termios
    clear = (
        t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON,
        t.OPOST,
        t.CSIZE | t.PARENB,
        t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN,
    )
    iflag, oflag, cflag, lflag = (
        mode & ~bits for mode, bits in zip(modes[:4], clear, strict=True) if isinstance(mode, int)
    )
    controls = modes[6]
    if isinstance(controls, list):
        controls[t.VMIN], controls[t.VTIME] = 1, 0
    return [iflag, oflag, cflag | t.CS8, lflag, *modes[4:]]


def _signal_fd(launch: Launcher) -> int:
    bits = sum(1 << (number - 1) for number in launch.signals)
    # sigset_t is an array of long; glibc's has 1024 bits.
    mask = bits.to_bytes(8, sys.byteorder) + bytes(120)
    return launch.call("signalfd", -1, mask, _SFD_FLAGS)


def _read(fd: int) -> bytes:
    try:
        return posix.read(fd, _CHUNK)
    except OSError:
        return b""  # the caller's terminal is gone


def _write_all(data: bytes) -> None:
    while data:
        try:
            data = data[posix.write(1, data) :]
        except BlockingIOError:
            waiting = poll()
            waiting.register(1, POLLOUT)
            waiting.poll()
        except OSError:
            return  # the caller's terminal is gone
