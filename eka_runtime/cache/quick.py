"""Small files over kept connections, by the plainest of requests: for look-ups by the hundred.

A library of HTTP takes 0.8 ms of processor for each answer, this a tenth of that; Python runs one
thread at a time, so that is what 800 narinfos wait for. The price is that only the usual answer is
understood: 200, or that there is nothing, with a length and no encoding. Everything else, as well
as every failure, is `Unusual`: ask again in the way that knows all cases (`http.py`).
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from ssl import SSLContext
from typing import NamedTuple, Protocol

_HEAD_MAX = 1 << 15
_PIECE = 1 << 16
# Headers that change how an answer is read, and the values that change nothing.
_SPECIAL = (b"transfer-encoding", b"content-encoding", b"connection")
_USUAL = (b"keep-alive", b"identity")


class Unusual(Exception):
    """Nothing was learned."""


class Stalled(Unusual):
    """No answer came in time, and none would over another connection."""


class Host(NamedTuple):
    """`tls` is None for http. An address of IPv6 has no brackets."""

    name: str
    port: int
    tls: SSLContext | None

    @property
    def header(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"


class Waits(Protocol):
    """Seconds."""

    @property
    def connect(self) -> float: ...
    @property
    def read(self) -> float: ...


class QuickFiles:
    """From any number of threads; each has a connection to itself while it asks.

    A connection takes `patience.connect` seconds at most, an answer twice `patience.read`; one that
    takes longer is not asked for again.
    `absent` are the statuses that say that there is nothing.
    """

    def __init__(self, host: Host, patience: Waits, absent: Collection[int]) -> None:
        self._host = host
        self._connect = patience.connect
        self._seconds = patience.read
        self._absent = tuple(str(status).encode() for status in absent)
        self._idle: deque[socket.socket] = deque()
        self._closed = False

    def get(self, target: str, headers: Mapping[str, str], limit: int) -> bytes | None:
        """What is at a path, of `limit` bytes at most; None when there is nothing.

        Raises Unusual.
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        text = f"GET {target} HTTP/1.1\r\nHost: {self._host.header}\r\n{lines}\r\n"
        try:
            request = text.encode("ascii")
        except UnicodeEncodeError as error:
            raise Unusual from error
        try:
            return self._exchange(self._idle.pop(), request, limit)
        except Stalled:
            raise
        except (IndexError, Unusual):
            # Those that were kept may be closed by now, which says nothing about the file.
            return self._exchange(self._opened(), request, limit)

    def close(self) -> None:
        self._closed = True
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _opened(self) -> socket.socket:
        host, port, tls = self._host
        try:
            line = socket.create_connection((host, port), self._connect)
            try:
                if tls is not None:
                    line = tls.wrap_socket(line, server_hostname=host)
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._limit(line)
            except BaseException:
                line.close()
                raise
        except (OSError, ValueError) as error:
            raise Unusual from error
        return line

    def _limit(self, line: socket.socket) -> None:
        if self._host.tls is not None:
            line.settimeout(self._seconds)
            return
        # The kernel's timeouts: with its own, Python polls before every call. Below TLS they are
        # of no use, since Python asks again.
        line.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            line.setsockopt(socket.SOL_SOCKET, option, _timeval(self._seconds))

    def _exchange(self, line: socket.socket, request: bytes, limit: int) -> bytes | None:
        try:
            line.sendall(request)
            answer = self._received(line, limit)
        except BaseException as error:
            line.close()
            if isinstance(error, TimeoutError | BlockingIOError):
                raise Stalled from error
            if isinstance(error, OSError | ValueError):
                raise Unusual from error
            raise
        self._idle.append(line)
        if self._closed:
            self.close()
        return answer

    def _received(self, line: socket.socket, limit: int) -> bytes | None:
        """Raises ValueError for what is not usual, also when that is all that is wrong."""
        end = time.monotonic() + self._seconds
        data = b""
        while b"\r\n\r\n" not in data:
            data += _piece(line, end)
            if len(data) > _HEAD_MAX + limit:
                raise ValueError
        head, _, body = data.partition(b"\r\n\r\n")
        found, length = self._understood(head)
        if length > limit:
            raise ValueError
        while len(body) < length:
            body += _piece(line, end)
        if len(body) > length:
            raise ValueError
        return body if found else None

    def _understood(self, head: bytes) -> tuple[bool, int]:
        """Whether there is such a file, and the length of the body. Raises ValueError."""
        first, *lines = head.split(b"\r\n")
        version, _, rest = first.partition(b" ")
        status = rest[:3]
        usual = version == b"HTTP/1.1" and (status == b"200" or status in self._absent)
        lengths = []
        for line in lines:
            key, _, value = line.partition(b":")
            key = key.lower()
            if key == b"content-length":
                lengths.append(value.strip())
            elif key in _SPECIAL:
                usual = usual and value.strip().lower() in _USUAL
        if not usual or len(lengths) != 1 or not lengths[0].isdigit() or len(lengths[0]) > 9:
            raise ValueError
        return status == b"200", int(lengths[0])


def _piece(line: socket.socket, end: float) -> bytes:
    data = line.recv(_PIECE)
    if time.monotonic() > end:
        raise TimeoutError
    if not data:
        raise ValueError
    return data


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
