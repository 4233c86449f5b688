"""A binary cache over HTTP, carried by cheroot: connections, threads, HTTP itself are its business.

Out of scope: what is answered (`serving.py`).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from eka_runtime.cache.recent import Recent
from eka_runtime.cache.serving import Answer, Asked, Cache, is_narinfo
from eka_runtime.errors import EkaError, StoreError, UsageError

THREADS = 64
"""Requests at the same time; more wait."""
_IDLE = 60
_QUEUE = 1024

_REASONS = {
    200: "OK",
    201: "Created",
    206: "Partial Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    416: "Range Not Satisfiable",
    500: "Internal Server Error",
    507: "Insufficient Storage",
}

Report = Callable[[str], object]


class Address(NamedTuple):
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`HOST:PORT`, `[::1]:PORT`, or `:PORT` for all of this machine. Raises UsageError."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 0xFFFF:
            raise UsageError(f"`{text}` is not HOST:PORT", hint="write `127.0.0.1:5000`")
        return cls(host.strip("[]") or "0.0.0.0", int(port))

    @property
    def local(self) -> bool:
        return self.host in ("127.0.0.1", "::1", "localhost")

    def url(self, port: int) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}"


@contextmanager
def serving(cache: Cache, address: Address, report: Report) -> Iterator[str]:
    """Yields the URL, when it can be used; `report` gets what went wrong on our side.

    Raises StoreError when the address cannot be had. At the end, answers under way are cut.
    """
    from eka_runtime.cache.front import FrontServer

    recent = Recent(cache.version)
    server: Any = FrontServer(
        (address.host, address.port),
        _Application(cache, report, recent),
        recent=recent,
        numthreads=THREADS,
        max=THREADS,
        timeout=_IDLE,
        request_queue_size=_QUEUE,
        shutdown_timeout=1,
    )
    server.error_log = lambda message="", level=20, traceback=False: None
    try:
        server.prepare()
    except OSError as error:
        raise StoreError(
            f"cannot listen on {address.host}:{address.port}: {error}",
            hint="choose another address with `--listen HOST:PORT`",
        ) from error
    bound: socket.socket = server.socket
    thread = threading.Thread(target=server.serve, name="cache-server")
    thread.start()
    try:
        yield address.url(bound.getsockname()[1])
    finally:
        server.stop()
        thread.join()


class _Application:
    """WSGI: PEP 3333."""

    def __init__(self, cache: Cache, report: Report, recent: Recent) -> None:
        self._cache = cache
        self._report = report
        self._recent = recent

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        known = self._recent.known
        asked = _asked(environ)
        answer = self._answer(asked)
        if asked.method == "GET" and is_narinfo(asked.name) and answer.status in (200, 404):
            answer = answer._replace(body=[b"".join(_taken(answer.body))])
            [body] = answer.body
            self._recent.learn(known, asked.name, body if answer.status == 200 else None)
        headers = [("Content-Type", answer.mime), *answer.headers]
        if answer.size is not None:
            headers.append(("Content-Length", str(answer.size)))
        start(f"{answer.status} {_REASONS.get(answer.status, 'Status')}", headers)
        if environ["REQUEST_METHOD"] == "HEAD":
            _close(answer.body)
            return ()
        return _Body(answer.body, self._report)

    def _answer(self, asked: Asked) -> Answer:
        try:
            return self._cache.answer(asked)
        except EkaError as error:
            self._report(f"{asked.method} /{asked.name[:200]}: {error}")
            return Answer(500, "text/plain", (b"the store cannot tell\n",), 22)


class _Body:
    """Reports what ends it early; the server then cuts the connection, so that it shows."""

    def __init__(self, body: Iterable[bytes], report: Report) -> None:
        self._body = body
        self._report = report

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except EkaError as error:
            self._report(str(error))
            raise

    def close(self) -> None:
        _close(self._body)


def _taken(body: Iterable[bytes]) -> Iterator[bytes]:
    """All of a body, which is done with then."""
    try:
        yield from body
    finally:
        _close(body)


def _close(body: object) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()


def _asked(environ: dict[str, Any]) -> Asked:
    headers = {
        key[5:].replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }
    source = environ["wsgi.input"]
    return Asked(
        environ["REQUEST_METHOD"],
        environ["PATH_INFO"].lstrip("/"),
        dict(parse_qsl(environ.get("QUERY_STRING", ""))),
        headers,
        lambda size: bytes(source.read(size)),
    )
