"""Blobs that somebody else brings into the store when they are asked for: both ends of the line.

    request   32 bytes, the digest; one for each connection to a Unix socket
    answer    `+` when the store has it; otherwise why not, in UTF-8, until the end

Who serves a view may have no network, and should have no libraries that make threads. So it asks a
process that has both, which answers when the blob is in the store and durable. What the kernel
takes as the name of a socket is short, what stores lie in is not: so it is given relative to the
working directory, or through a descriptor. Who serves a view has no /proc for the latter, since the
run has its own there.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.services import BlobService
from eka_runtime.errors import EkaError, ServiceError

_DIGEST_SIZE = 32
_ANSWER_MAX = 1 << 16
_BACKLOG = 16


class AskedBlobs:
    """A BlobService: what `near` has, and what comes there when the socket at `place` is asked.

    `place` has 107 bytes at most.
    """

    def __init__(self, near: BlobService, place: str) -> None:
        self._near = near
        self._place = place

    def has(self, digest: B3Digest) -> bool:
        return self._near.has(digest)

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        """Raises ServiceError when it cannot be had."""
        found = self._near.open_read(digest)
        if found is not None:
            return found
        self._ask(digest)
        return self._near.open_read(digest)

    def _ask(self, digest: B3Digest) -> None:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(self._place)
                line.sendall(digest)
                answer = _until_end(line, _ANSWER_MAX)
        except OSError as error:
            raise ServiceError(f"nobody is there any more who would fetch it: {error}") from error
        if answer != b"+":
            raise ServiceError(answer.decode(errors="replace") or "the process that fetches ended")


def listen(place: Path) -> socket.socket:
    """A socket at `place` to which only this user can connect. Raises OSError."""
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o077)
    try:
        above = os.open(place.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listening.bind(f"/proc/self/fd/{above}/{place.name}")
        finally:
            os.close(above)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(before)
    return listening


def answer_all(listening: socket.socket, bring: Callable[[B3Digest], object]) -> None:
    """For ever; `bring` is called by several threads and returns when the blob is there."""
    while True:
        line, _ = listening.accept()
        threading.Thread(target=_answer, args=(line, bring), daemon=True).start()


def _answer(line: socket.socket, bring: Callable[[B3Digest], object]) -> None:
    # Whoever asked may be gone.
    with line, suppress(OSError):
        digest = line.recv(_DIGEST_SIZE, socket.MSG_WAITALL)
        if len(digest) != _DIGEST_SIZE:
            return
        try:
            bring(B3Digest(digest))
            line.sendall(b"+")
        except (EkaError, OSError) as error:
            line.sendall(str(error).encode(errors="replace")[:_ANSWER_MAX] or b"-")


def _until_end(line: socket.socket, limit: int) -> bytes:
    data = b""
    while len(data) < limit and (piece := line.recv(limit - len(data))):
        data += piece
    return data
