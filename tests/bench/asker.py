"""Asks a server for small files, over and over: `python -m tests.bench.asker URL COUNT NAME…`.

One thread with some kept connections: a question goes out on each, then the answers are read. That
takes less of the processor than any server does for its part.
"""

from __future__ import annotations

import socket
import sys
from itertools import cycle, islice
from urllib.parse import urlsplit

CONNECTIONS = 32


def ask(url: str, count: int, names: list[str]) -> None:
    parts = urlsplit(url)
    assert parts.hostname is not None
    lines = [
        socket.create_connection((parts.hostname, parts.port or 80)) for _ in range(CONNECTIONS)
    ]
    questions = cycle(
        f"GET /{name} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode() for name in names
    )
    for _ in range(count // len(lines)):
        for line, question in zip(lines, islice(questions, len(lines)), strict=True):
            line.sendall(question)
        for line in lines:
            _answer(line)
    for line in lines:
        line.close()


def _answer(line: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = line.recv(1 << 16)
        assert piece, "the server ended the connection"
        head += piece
    head, _, body = head.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    left = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) - len(body)
    while left:
        left -= len(line.recv(left))


if __name__ == "__main__":
    ask(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
