"""A server that speaks S3 on the loopback: moto's, which checks names, parts and who may do what.

It does not know that a bucket is in another region; what Amazon says then is answered by tests
themselves.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import IO, NamedTuple

from tests.requirements import lacking

PAGE = 10
"""Keys in one page of a listing; 1000 at Amazon."""
WHO = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret"}


class S3(NamedTuple):
    """`host` is HOST:PORT, without TLS."""

    host: str

    @property
    def parameters(self) -> dict[str, str]:
        """As Nix has them in URLs."""
        return {"endpoint": self.host, "scheme": "http", "region": "us-east-1"}

    @property
    def query(self) -> str:
        return "&".join(f"{key}={value}" for key, value in self.parameters.items())

    def make_bucket(self, name: str, policy: str = "") -> str:
        self._send("PUT", name)
        if policy:
            self._send("PUT", f"{name}?policy", policy)
        return name

    @contextmanager
    def strict(self) -> Iterator[None]:
        """Meanwhile nobody is known who signs."""
        self._send("POST", "moto-api/reset-auth", "0")
        try:
            yield
        finally:
            self._send("POST", "moto-api/reset-auth", str(10**9))

    def _send(self, method: str, target: str, body: str = "") -> None:
        # Without a signature that somebody would check, but by somebody.
        headers = {
            "Authorization": "AWS4-HMAC-SHA256 "
            "Credential=somebody/20260101/us-east-1/s3/aws4_request, "
            "SignedHeaders=host, Signature=0",
            "Content-Type": "text/plain",
        }
        url = f"http://{self.host}/{target}"
        request = urllib.request.Request(url, body.encode(), headers, method=method)
        with urllib.request.urlopen(request, timeout=60):
            pass


@contextmanager
def serve_s3() -> Iterator[S3]:
    if not find_spec("moto") or not find_spec("flask"):
        lacking("moto is not installed, which speaks S3 (`pip install -e '.[s3-tests]'`)")
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    environ = os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
    with subprocess.Popen(
        words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        # What it says of each request must go somewhere.
        rest = threading.Thread(target=process.stderr.read)
        try:
            host = _host(process.stderr)
            rest.start()
            yield S3(host)
        finally:
            process.kill()
            if rest.ident:
                rest.join()


def _host(said: IO[bytes]) -> str:
    for line in said:
        if match := re.search(rb"http://([0-9.:]+)", line):
            return match[1].decode()
    raise AssertionError("moto did not start")


PUBLIC = (
    '{"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",'
    ' "Resource": "arn:aws:s3:::NAME/*"}]}'
)
"""A policy by which everybody may read the bucket NAME."""
