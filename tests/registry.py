"""A real registry (Debian's docker-registry) on a port of its own of the loopback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.requirements import lacking, require
from tests.tokens import ISSUER, SERVICE, Tokens

USER, PASSWORD = "someone", "secret"
# bcrypt of the password, of the lowest cost there is.
_LINE = f"{USER}:$2b$05$lozgOHGYClSNYuRj9OsLa.hqK7BSFAIZ///ycXQv28vBEWfZ01U46\n"

_CONFIG = """\
version: 0.1
log: {{level: info, formatter: text}}
storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:0"}}
"""
_BASIC = "auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n"


class Registry:
    """`host` has the port; `requests` are lines of its access log so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.requests: list[str] = []
        self.host = self._address()
        assert process.stderr is not None
        assert process.stdout is not None
        # It must never wait for somebody to read what it says.
        self._threads = [
            threading.Thread(target=self._note, args=(process.stdout,)),
            threading.Thread(target=process.stderr.read),
        ]
        for thread in self._threads:
            thread.start()

    def _note(self, stream: IO[bytes]) -> None:
        for line in stream:
            self.requests.append(line.decode(errors="replace"))

    def _address(self) -> str:
        assert self._process.stderr is not None
        said = b""
        for line in self._process.stderr:
            said += line
            if match := re.search(rb"listening on (127\.0\.0\.1:[0-9]+)", line):
                return match[1].decode()
        lacking(f"docker-registry does not start: {said.decode(errors='replace')}")

    def stop(self) -> None:
        """Afterwards `requests` are complete."""
        self._process.terminate()
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


def by_tokens(tokens: Tokens) -> str:
    """The `auth` of a registry that sends who comes to somebody else for tokens."""
    stated = {"realm": tokens.realm, "service": SERVICE, "issuer": ISSUER}
    return f"auth: {json.dumps({'token': {**stated, 'rootcertbundle': str(tokens.certificate)}})}\n"


@contextmanager
def registry(*, auth: bool = False, tokens: Tokens | None = None) -> Iterator[Registry]:
    program = require("docker-registry")
    with tempfile.TemporaryDirectory(prefix="eka-registry-") as name:
        place = Path(name)
        config = (_CONFIG + (_BASIC if auth else "")).format(root=place)
        (place / "config.yml").write_text(config + (by_tokens(tokens) if tokens else ""))
        (place / "htpasswd").write_text(_LINE)
        process = subprocess.Popen(
            [program, "serve", place / "config.yml"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.defpath},
        )
        try:
            made = Registry(process)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        try:
            yield made
        finally:
            made.stop()
