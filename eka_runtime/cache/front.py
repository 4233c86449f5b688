"""cheroot's server, which answers narinfos that it knows without a worker.

The thread that waits for connections looks at what has come before it hands a connection to a
worker. If that is one plain request for a narinfo of `Recent`, it answers by itself: no queue, no
other thread, no grammar of HTTP. All else is left as it came. Constraint: that thread must never
wait for a client, so it reads what is there, and writes what the kernel takes.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sqlite3
import threading
import time
from email.utils import formatdate
from typing import Any

from cheroot.connections import ConnectionManager
from cheroot.wsgi import Server

from eka_runtime.cache.recent import Recent
from eka_runtime.cache.serving import ABSENT
from eka_runtime.errors import EkaError
from eka_runtime.linux.descriptors import raise_file_limit
from eka_runtime.nix.narinfo import MIME

_HEAD_MAX = 4096
_CONNECTIONS = 4096
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE = 0.05
_REQUEST = re.compile(rb"(GET|HEAD) /([0-9a-z]{32}\.narinfo) HTTP/1\.1\r\n")
# Headers that change how a request is read, or how it is answered.
_SPECIAL = re.compile(
    rb"\r\n(connection:(?![ \t]*keep-alive[ \t]*\r)|content-length|transfer-encoding"
    rb"|expect|upgrade|[ \t])",
    re.IGNORECASE,
)
_ABSENT = f"{ABSENT}\n".encode()


def _is_plain(head: bytes) -> bool:
    """Whether it is one request without a body, each of whose lines ends as all take it to end."""
    ends = head.count(b"\r\n")
    whole = head.find(b"\r\n\r\n") == len(head) - 4
    return whole and head.count(b"\n") == head.count(b"\r") == ends and not _SPECIAL.search(head)


class FrontServer(Server):
    """`recent` is asked by the thread that serves."""

    _connections: Any

    def __init__(self, *arguments: Any, recent: Recent, **more: Any) -> None:
        super().__init__(*arguments, **more)
        # With the 10 of cheroot, clients with many connections have to make them anew all the time;
        # with more than there are descriptors for, nobody could be accepted any more.
        self._room = raise_file_limit() // 2
        self.keep_alive_conn_limit = min(_CONNECTIONS, self._room)
        self._recent = recent
        self._second = 0
        self._date = b""

    def prepare(self) -> None:
        super().prepare()
        self._connections.close()
        self._connections = _Connections(self)

    def process_conn(self, conn: Any) -> None:
        if conn.last_used is None:
            self._enter(conn)
        elif conn.rfile.has_data() or not self._answered(conn):
            super().process_conn(conn)

    def _enter(self, conn: Any) -> None:
        """A connection just made; when something has come it is processed."""
        # The kernel gives the lowest number, so it counts those that wait for a worker, too.
        if self.can_add_keepalive_connection and conn.socket.fileno() < self._room:
            self.put_conn(conn)
        else:
            conn.close()

    def _answered(self, conn: Any) -> bool:
        try:
            head = conn.socket.recv(_HEAD_MAX, socket.MSG_PEEK)
        except OSError:
            return False
        answer = self._answer(head)
        if answer is None:
            return False
        try:
            conn.socket.recv(len(head))
            # Not by the socket, which would wait for a client that reads nothing.
            sent = os.write(conn.socket.fileno(), answer)
        except OSError:
            sent = 0
        if sent == len(answer):
            self.put_conn(conn)
        else:
            conn.close()
        return True

    def _answer(self, head: bytes) -> bytes | None:
        """None for what is not known, and for requests that are not plain."""
        match = _REQUEST.match(head)
        if match is None or not _is_plain(head):
            return None
        try:
            known, name = self._recent.fresh(), match[2].decode()
        except (EkaError, sqlite3.Error):
            return None  # a worker meets it again, and tells it
        if name not in known:
            return None
        found = known[name]
        status, mime = ("200 OK", MIME) if found is not None else ("404 Not Found", "text/plain")
        body = _ABSENT if found is None else found
        lines = f"HTTP/1.1 {status}\r\nContent-Type: {mime}\r\nContent-Length: {len(body)}\r\n"
        return lines.encode() + self._now() + (b"" if match[1] == b"HEAD" else body)

    def _now(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._date = f"Date: {formatdate(second, usegmt=True)}\r\n\r\n".encode()
        return self._date


class _Connections(ConnectionManager):
    def __init__(self, server: FrontServer) -> None:
        super().__init__(server)
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()
        super().stop()

    def _from_server_socket(self, server_socket: Any) -> Any:
        try:
            return super()._from_server_socket(server_socket)  # type: ignore[misc]
        except OSError as error:
            if error.errno not in _FULL:
                raise
            # Who waits to be accepted is still there at the next turn, which must not come at
            # once; meanwhile the others have theirs, and those that say nothing expire.
            self._ended.wait(_PAUSE)
            return None
