"""A real Nix store for the tests that compare with Nix itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.requirements import require

Nix = Callable[..., bytes]


@pytest.fixture
def nix(tmp_path: Path) -> Nix:
    """Runs one of Nix's programs on a store of the test's own, whose paths begin /nix/store."""
    require("nix-store")
    home = tmp_path / "nix-home"
    home.mkdir()
    environ = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.fspath(home),
        "TMPDIR": os.fspath(home),
        "NIX_CONF_DIR": os.fspath(home / "conf"),
        # Some host is without the build users that root's Nix expects; nothing is built here.
        "NIX_CONFIG": "build-users-group =\nsubstituters =",
    }

    def run(program: str, *args: str | Path, stdin: bytes = b"") -> bytes:
        command = [require(program), "--store", tmp_path / "nix-root", *args]
        done = subprocess.run(command, input=stdin, env=environ, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run
