"""Binary caches for tests: made by real Nix, served by a plain server that can be made to lie.

The server answers as the public ones do, with ranges and ETags, unless a test takes an answer over.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from eka_runtime.nix.signing import SecretKey
from tests.seed import NixStore

FEATURES = ("--extra-experimental-features", "nix-command")


class Request(NamedTuple):
    """What a client asked for; `start` is where a range begins."""

    method: str
    name: str
    start: int
    handler: BaseHTTPRequestHandler

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.handler.send_response(status)
        for key, value in headers.items():
            self.handler.send_header(key.replace("_", "-"), value)
        if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
            self.handler.send_header("Content-Length", str(len(data)))
        self.handler.end_headers()
        if self.method != "HEAD":
            self.handler.wfile.write(data)

    def cut(self) -> None:
        """Ends the connection without a word."""
        self.handler.close_connection = True


Instead = Callable[[Request], bool]
"""Answers a request in place of the server, and returns true; or returns false."""


class Server:
    """A directory over HTTP on loopback; `asked` has all names that were asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[str] = []
        self.instead: Instead = lambda request: False
        self.url = ""
        self._guard = threading.Lock()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        ranged = handler.headers.get("Range", "")
        start = int(ranged[6:-1]) if ranged.startswith("bytes=") and ranged.endswith("-") else 0
        name = handler.path.lstrip("/")
        request = Request(handler.command, name, start, handler)
        with self._guard:
            self.asked.append(name)
        if not self.instead(request):
            self.answer(request)

    def answer(self, request: Request) -> None:
        place = self.directory / request.name
        if not place.is_file():
            request.answer(404, b"not found")
            return
        size = place.stat().st_size
        headers = {"Content_Length": str(size - request.start), "ETag": '"1"'}
        if request.start:
            headers["Content_Range"] = f"bytes {request.start}-{size - 1}/{size}"
        request.answer(206 if request.start else 200, **headers)
        if request.method != "HEAD":
            with place.open("rb") as file:
                file.seek(request.start)
                shutil.copyfileobj(file, request.handler.wfile)


@contextmanager
def serving(directory: Path) -> Iterator[Server]:
    server = Server(directory)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Answers of two writes would wait for an acknowledgment.
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            server.handle(self)

        do_HEAD = do_PUT = do_GET

        def finish(self) -> None:
            with suppress(OSError):
                super().finish()
            # Left open where the client went away with something unsent.
            self.rfile.close()

        def log_message(self, *words: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, *words: object) -> None:
            """Clients that go away are what some tests are about."""

    http = Quiet(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def nix_copy_to(nix: NixStore, directory: Path, key: Path | None, *paths: str, **more: str) -> None:
    """`nix copy --to file://DIRECTORY`, signed with the key in a file."""
    parameters = more | ({"secret-key": os.fspath(key)} if key else {})
    query = "&".join(f"{name.replace('_', '-')}={value}" for name, value in parameters.items())
    nix.run("nix", *FEATURES, "copy", "--to", f"file://{directory}?{query}", *paths)


def new_key(directory: Path, name: str = "test-1") -> tuple[Path, str]:
    """A file with a secret key, and the public key."""
    secret = SecretKey.generate(name)
    place = directory / f"{name}.secret"
    place.write_text(secret.text())
    return place, str(secret.public)
