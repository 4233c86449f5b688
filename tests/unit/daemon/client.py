"""A client of the worker protocol that speaks any version, from the tables of the server."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

from eka_runtime.build.workbench import Workbench
from eka_runtime.cache.supply import Supply
from eka_runtime.daemon.protocol import (
    CLIENT_MAGIC,
    MESSAGES,
    REPLIES,
    REQUESTS,
    SERVER_MAGIC,
    Message,
    Op,
    Payload,
    payload,
)
from eka_runtime.daemon.server import Server, listening
from eka_runtime.daemon.wire import TEXT, Values, read_fields, write_fields, write_frames
from eka_runtime.nix.nar import NarReader
from eka_runtime.nix.tokens import token, u64
from eka_runtime.store.store import Store
from eka_runtime.view.live import growing


class Refused(Exception):
    """The server answered with an error."""


class Client:
    """One connection; a context manager."""

    def __init__(
        self,
        place: Path,
        version: int = 37,
        connecting: AbstractContextManager[None] = nullcontext(),  # noqa: B008
    ) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        with connecting:
            self.socket.connect(bytes(place))
        self.source = NarReader(self.socket.recv, subject="the server")
        self.said: list[tuple[Message, Values]] = []
        self.version = version
        self._shake_hands(version)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def _shake_hands(self, version: int) -> None:
        self.send(u64(CLIENT_MAGIC))
        assert self.source.u64("magic") == SERVER_MAGIC
        assert self.source.u64("version") == 0x125
        self.send(u64(0x100 | version) + u64(0) + u64(0))
        if version >= 33:
            self.release = TEXT.read(self.source, version)
        if version >= 35:
            self.trust = self.source.u64("trust")
        self.answer()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, op: Op, values: Values | None = None, data: bytes = b"") -> Values:
        """The reply. Raises Refused."""
        self.send(u64(op) + write_fields(REQUESTS[op], values or {}, self.version))
        kind = payload(op, self.version)
        if kind is Payload.FRAMED:
            write_frames(io.BytesIO(data).read, self.send)
        elif kind is Payload.NAR:
            self.send(data)
        self.answer(io.BytesIO(data))
        return read_fields(REPLIES[op], self.source, self.version)

    def answer(self, data: io.BytesIO | None = None) -> None:
        while True:
            kind = Message(self.source.u64("a message"))
            values = read_fields(MESSAGES[kind], self.source, self.version)
            if kind is Message.LAST:
                return
            if kind is Message.ERROR:
                raise Refused(values["message"])
            if kind is Message.READ:
                assert data is not None
                self.send(token(data.read(values["size"])))
            self.said.append((kind, values))


@contextmanager
def served(
    root: Path,
    place: Path,
    *,
    reports: list[str] | None = None,
    supply: Supply | None = None,
    workbench: Callable[[], Workbench] | None = None,
) -> Iterator[Path]:
    """A server of the store in this process; it must have nothing to report, unless asked for."""
    said: list[str] = [] if reports is None else reports
    with Store.open(root) as store:
        layout = store.layout
    with listening(place) as made, growing(layout) as view:
        server = Server(
            lambda: Store.open(root),
            made,
            said.append,
            view=view,
            supply=supply,
            workbench=workbench,
        )
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield place
        finally:
            server.end()
            thread.join()
    assert reports is not None or not said, said


def info(values: Values) -> dict[str, Any]:
    """A ValidPathInfo without what differs from one addition to the next."""
    return {key: value for key, value in values.items() if key != "registrationTime"}
