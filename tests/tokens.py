"""Who gives tokens for a real registry, as registries' token authentication describes it.

The registry believes tokens that carry the certificate it was told to trust, and that openssl has
signed with its key (RS256). Kept as small as the protocol: one user, whatever is asked for.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.requirements import require

ISSUER, SERVICE = "eka's tests", "registry of eka's tests"


class Tokens(ThreadingHTTPServer):
    """`asked` has the scope of each request that had the right password."""

    daemon_threads = True

    def __init__(self, place: Path, user: str, password: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.login = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.asked: list[str] = []
        self.key, self.certificate = place / "key.pem", place / "certificate.pem"
        kind = ("-newkey", "rsa:2048", "-nodes", "-subj", "/CN=eka")
        places = ("-keyout", str(self.key), "-out", str(self.certificate))
        _openssl("req", "-x509", "-days", "2", *kind, *places)

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/token"

    def token(self, scope: str) -> str:
        kind, name, actions = scope.split(":")
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": SERVICE,
            "nbf": now - 60,
            "exp": now + 300,
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        lines = self.certificate.read_text().splitlines()
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(lines[1:-1])]}
        text = f"{_coded(json.dumps(header).encode())}.{_coded(json.dumps(claims).encode())}"
        signature = _openssl("dgst", "-sha256", "-sign", str(self.key), input_=text.encode())
        return f"{text}.{_coded(signature)}"


class _Handler(BaseHTTPRequestHandler):
    server: Tokens

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if self.headers.get("Authorization") != self.server.login or query["service"] != [SERVICE]:
            return self._answer(401, {"details": "wrong"})
        (scope,) = query["scope"]
        self.server.asked.append(scope)
        self._answer(200, {"token": self.server.token(scope), "expires_in": 300})

    def _answer(self, status: int, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def tokens(place: Path, user: str, password: str) -> Iterator[Tokens]:
    with Tokens(place, user, password) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _openssl(*words: str, input_: bytes = b"") -> bytes:
    command = [require("openssl"), *words]
    return subprocess.run(command, input=input_, capture_output=True, check=True).stdout


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
