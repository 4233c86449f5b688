"""A running `eka daemon`, and real Nix as its client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.requirements import require

_CONFIG = "substituters =\nexperimental-features = nix-command\nbuild-users-group =\n"


class Daemon(NamedTuple):
    """What it announced."""

    url: str
    socket: Path
    root: Path
    process: subprocess.Popen[str]


@contextmanager
def daemon(store: Path, place: Path, *words: str) -> Iterator[Daemon]:
    """Listens below `place`; has to end well, with nothing to complain of."""
    socket = place / "socket"
    command = [sys.executable, "-m", "eka", "--json", "--store", os.fspath(store), "daemon"]
    command += ["--socket", os.fspath(socket), *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            assert said, process.communicate()
            ready = json.loads(said)
            yield Daemon(ready["url"], socket, Path(ready["root"]), process)
        finally:
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate()
        assert not errors, errors
        assert (process.returncode, rest) == (0, "")
        assert not socket.exists()


class Done(NamedTuple):
    status: int
    out: bytes
    err: str


class Nix(NamedTuple):
    """Real Nix with the store at `url`, and files of its own below `home`."""

    url: str
    home: Path

    def run(
        self, tool: str, *words: str | os.PathLike[str], data: bytes = b"", cwd: Path | None = None
    ) -> Done:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": os.fspath(self.home),
            "NIX_STATE_DIR": os.fspath(self.home / "state"),
            "NIX_LOG_DIR": os.fspath(self.home / "log"),
            "NIX_CONF_DIR": os.fspath(self.home),
            "NIX_REMOTE": self.url,
            "NIX_CONFIG": _CONFIG,
        }
        done = subprocess.run(
            [require(tool), *words], env=environ, input=data, capture_output=True, cwd=cwd
        )
        return Done(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def text(self, tool: str, *words: str | os.PathLike[str], cwd: Path | None = None) -> str:
        """stdout of what has to succeed, without the last newline."""
        done = self.run(tool, *words, cwd=cwd)
        assert done.status == 0, done.err
        return done.out.decode().rstrip("\n")
