"""Joins the caller's terminal and the program's own: what an interactive start adds in outer mode.

The program gets a pseudo-terminal, made by the runtime and handed over through a socket: with the
caller's own it could push input into his shell (TIOCSTI). The caller's is put into raw mode, so
that ^C and ^Z are bytes that mean something only to the terminal inside, as with ssh.

Constraint: loaded by every start on a terminal; imports as little as enter.py does. Out of scope:
the other modes, where the runtime does the same.
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
    from eka_runtime.runtime.enter import Launch

_SFD_FLAGS = posix.O_CLOEXEC | posix.O_NONBLOCK
_SIGINFO = 128  # sizeof(struct signalfd_siginfo): signo, errno and code are its first words
_CHUNK = 1 << 16


class Console:
    """Made before the runtime starts, so that it finds the socket at `path`."""

    def __init__(self, state: str) -> None:
        self.path = state + "/tty"
        self._listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._poll = poll()
        self._master = -1
        self._typed = b""  # read from the caller, not yet taken by the program
        self._saved: list[int | list[bytes | int]] | None = None

    def run(self, launch: Launch) -> None:
        """Returns when the child is gone and all its output is written."""
        signals = _signal_fd(launch)
        self._poll.register(signals, POLLIN)
        self._poll.register(self._listener, POLLIN)
        try:
            while not self._turn(launch, signals):
                pass
            self._drain()
        finally:
            self.suspend()

    def _turn(self, launch: Launch, signals: int) -> bool:
        for fd, event in self._poll.poll():
            if fd == signals:
                info = posix.read(signals, _SIGINFO)
                code = int.from_bytes(info[8:12], sys.byteorder, signed=True)
                if launch.handle(int.from_bytes(info[:4], sys.byteorder), code):
                    return True
            elif fd == self._listener.fileno():
                self._connect()
            elif fd == 0:
                self._read_typed()
            else:
                self._serve(event)
        return False

    def _connect(self) -> None:
        """Takes the pseudo-terminal's master from the runtime."""
        self._poll.unregister(self._listener)
        connection = socket(fileno=self._listener._accept()[0])  # type: ignore[attr-defined]
        _, ancillary, _, _ = connection.recvmsg(4096, CMSG_LEN(4))
        connection.close()
        self._listener.close()
        if ancillary:
            self._master = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
            posix.set_inheritable(self._master, False)
            posix.set_blocking(self._master, False)
            self._poll.register(self._master, POLLIN)
            self._poll.register(0, POLLIN)
            self.resume()

    def _read_typed(self) -> None:
        try:
            self._typed = posix.read(0, _CHUNK)
        except OSError:
            self._typed = b""
        # Nothing more is read until the program has taken this.
        self._poll.unregister(0)
        if self._typed:
            self._poll.modify(self._master, POLLIN | POLLOUT)

    def _serve(self, event: int) -> None:
        try:
            if event & POLLOUT and self._typed:
                self._typed = self._typed[posix.write(self._master, self._typed) :]
                if not self._typed:
                    self._poll.modify(self._master, POLLIN)
                    self._poll.register(0, POLLIN)
            if event & ~POLLOUT:
                _write_all(posix.read(self._master, _CHUNK))
        except BlockingIOError:
            return
        except OSError:
            # Every process has closed the terminal; the program may well go on without one.
            self._poll.unregister(self._master)
            if not self._typed:
                self._poll.unregister(0)

    def _drain(self) -> None:
        """What the program wrote last; the kernel keeps it although all writers are gone."""
        while self._master >= 0:
            try:
                _write_all(posix.read(self._master, _CHUNK))
            except OSError:
                return

    def resize(self) -> None:
        """Gives the inner terminal the outer one's size, which signals the program."""
        if self._master >= 0:
            ioctl(self._master, termios.TIOCSWINSZ, ioctl(0, termios.TIOCGWINSZ, bytes(8)))

    def resume(self) -> None:
        """Raw mode, and the size that the outer terminal has by now."""
        if self._master < 0:
            return
        if self._saved is None:
            self._saved = termios.tcgetattr(0)
        termios.tcsetattr(0, termios.TCSADRAIN, _raw(termios.tcgetattr(0)))
        self.resize()

    def suspend(self) -> None:
        """Back to the caller's modes, unless someone else has the terminal by now."""
        if self._saved is None or posix.tcgetpgrp(0) != posix.getpgrp():
            return
        termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        self._saved = None


def _raw(modes: list[int | list[bytes | int]]) -> list[int | list[bytes | int]]:
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


def _signal_fd(launch: Launch) -> int:
    bits = sum(1 << (number - 1) for number in launch.signals)
    # sigset_t is an array of long; glibc's has 1024 bits.
    mask = bits.to_bytes(8, sys.byteorder) + bytes(120)
    return launch.call("signalfd", -1, mask, _SFD_FLAGS)


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
