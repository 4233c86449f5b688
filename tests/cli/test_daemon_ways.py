"""Other ways to the daemon than its own socket: ssh-ng, a service manager, and what is refused."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from eka.cli import cli
from tests.daemons import Nix
from tests.stores import store_dir
from tests.unit.castore.local import temporary
from tests.unit.nix.trees import COMPLICATED, to_disk

__all__ = ["store_dir"]

# Behind the name of the host and options without values comes the command, as words for a shell.
_SSH = """\
#!/bin/sh
while [ "$1" != otherhost ]; do shift; done
shift
while case "$1" in -*) true;; *) false;; esac; do shift; done
exec sh -c "$*"
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary() as path:
        (path / "home").mkdir()
        yield path


@pytest.fixture
def remote(store_dir: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Nix:
    """Nix with our store as one that is reached by ssh; `ssh` starts the command here."""
    bin_directory = place / "bin"
    bin_directory.mkdir()
    (bin_directory / "ssh").write_text(_SSH)
    (bin_directory / "ssh").chmod(0o755)
    daemon = bin_directory / "eka-daemon"
    words = [sys.executable, "-m", "eka", "--store", os.fspath(store_dir), "daemon"]
    daemon.write_text(f'#!/bin/sh\ncd {shlex.quote(os.getcwd())}\nexec {shlex.join(words)} "$@"\n')
    daemon.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_directory}:{os.environ['PATH']}")
    return Nix(f"ssh-ng://otherhost?remote-program={daemon}", place / "home")


def test_nix_reaches_the_store_by_ssh(remote: Nix, place: Path, tmp_path: Path) -> None:
    tree = to_disk(COMPLICATED, tmp_path / "tree")
    own = Nix(f"local?root={place}/own", place / "home")
    path = own.text("nix-store", "--add", tree)
    own.text("nix", "copy", "--to", remote.url, path)
    assert remote.text("nix", "path-info", path) == path
    listed = ("nix", "store", "ls", "-lR", path)
    assert remote.text(*listed) == own.text(*listed)
    again = Nix(f"local?root={place}/again", place / "home")
    again.text("nix", "copy", "--no-check-sigs", "--from", remote.url, path)
    assert again.text("nix-store", "-q", "--hash", path) == own.text(
        "nix-store", "-q", "--hash", path
    )


def _activated(store: Path, listening: socket.socket) -> subprocess.Popen[str]:
    """As a service manager starts a service: the socket is descriptor 3, and the pid is known."""
    environ = {**os.environ, "LISTEN_FDS": "1"}
    command = [sys.executable, "-m", "eka", "--store", os.fspath(store), "daemon"]
    start = 'LISTEN_PID=$$ exec "$@"'

    def hand_over() -> None:
        os.dup2(listening.fileno(), 3)

    return subprocess.Popen(
        ["sh", "-c", start, "sh", *command],
        env=environ,
        preexec_fn=hand_over,
        close_fds=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_service_manager_may_hand_over_the_socket(store_dir: Path, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(place / "socket"))
        made.listen()
        # The first client comes before there is a daemon, which is what starts it.
        with _activated(store_dir, made) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url == f"unix://{place}/socket?root={store_dir}/view/bind"
            nix = Nix(url, place / "home")
            (place / "file").write_text("by activation")
            path = nix.text("nix-store", "--add", place / "file")
            assert Path(f"{store_dir}/view/bind{path}").read_text() == "by activation"
            process.send_signal(signal.SIGTERM)
            assert process.communicate() == ("", "")
        assert process.returncode == 0
    assert (place / "socket").exists()


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--stdio", "--socket", "s"], 2, "needs no socket"),
        (["--socket", "x" * 200], 2, "at most 107 bytes"),
        (["--socket", "/proc/none/s"], 24, "cannot listen"),
    ],
)
def test_refusals(store_dir: Path, words: list[str], status: int, text: str) -> None:
    command = ["--store", os.fspath(store_dir), "daemon", *words]
    done = CliRunner().invoke(cli, command, prog_name="eka")
    assert done.exit_code == status, done.output
    assert text in done.stderr
    assert "hint: " in done.stderr
