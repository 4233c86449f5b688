"""The quick way of asking: what stalls is given up once, and names are written as others do."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from eka_runtime.cache.http import Patience
from eka_runtime.cache.quick import Host, QuickFiles, Unusual
from tests.requirements import require

PATIENCE = Patience(connect=60, read=0.3)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer(threading.Thread):
    """Answers each connection so many times, and then reads on without a word."""

    def __init__(self, answers: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.requests: list[bytes] = []
        self._answers, self._tls = answers, tls

    def run(self) -> None:
        while True:
            try:
                line, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        if self._tls is not None:
            line = self._tls.wrap_socket(line, server_side=True)
        with line:
            left = self._answers
            while data := line.recv(1 << 16):
                self.requests.append(data)
                if left:
                    line.sendall(ANSWER)
                left -= 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    words = "req -x509 -nodes -newkey rsa:2048 -days 2 -subj /CN=localhost"
    more = ("-addext", "subjectAltName=DNS:localhost", "-keyout", file, "-out", f"{file}.crt")
    command = [require("openssl"), *words.split(), *more]
    subprocess.run(command, check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + Path(f"{file}.crt").read_bytes())
    return file


@pytest.fixture(params=["http", "https"])
def stalling(request: pytest.FixtureRequest, certificate: Path) -> Iterator[tuple[Peer, Host]]:
    """It answers once on each connection."""
    theirs = ours = None
    if request.param == "https":
        theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        theirs.load_cert_chain(certificate)
        ours = ssl.create_default_context(cafile=f"{certificate}.crt")
    peer = Peer(1, theirs)
    peer.start()
    with peer.listening:
        yield peer, Host("localhost", peer.port, ours)


def test_a_stalled_answer_is_given_up_and_not_asked_for_again(
    stalling: tuple[Peer, Host],
) -> None:
    peer, host = stalling
    with closing(QuickFiles(host, PATIENCE, ())) as files:
        assert files.get("/first", {}, 10) == b"ok"
        with pytest.raises(Unusual):
            files.get("/second", {}, 10)
    assert [data.split()[1] for data in peer.requests] == [b"/first", b"/second"]


def test_the_host_is_named_without_what_is_usual() -> None:
    peer = Peer(9)
    peer.start()
    with peer.listening, closing(QuickFiles(Host("localhost", peer.port, None), PATIENCE, ())) as q:
        q.get("/x", {"User-Agent": "eka"}, 10)
    assert f"Host: localhost:{peer.port}".encode() in peer.requests[0].split(b"\r\n")


def test_what_cannot_be_written_in_a_request_is_unusual() -> None:
    files = QuickFiles(Host("localhost", 1, None), PATIENCE, ())
    with closing(files), pytest.raises(Unusual):
        files.get("/\u4f8b", {}, 10)
