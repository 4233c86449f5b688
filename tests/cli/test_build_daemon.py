"""Real Nix as a client that builds: `nix-build` over the socket, and a remote builder over ssh."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builds import VECTORS, comparable, nix_options, nix_version
from tests.daemons import Nix, daemon
from tests.seed import NixStore, busybox_tree
from tests.stores import assert_clean
from tests.unit.castore.local import temporary

_BUILDS = VECTORS / "builds.nix"
_FAILING = """
{ tools }: derivation {
  name = "failing"; system = "x86_64-linux"; builder = "${tools}/bin/sh";
  args = [ "-c" "echo first; echo last; exit 3" ];
}
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary() as path:
        (path / "home").mkdir()
        yield path
        assert_clean(path / "store")


@pytest.fixture
def tools(place: Path) -> Path:
    return busybox_tree(place)


def test_nix_builds_through_the_daemon(place: Path, tools: Path) -> None:
    theirs = NixStore(place / "nix")
    words = ("--arg", "tools", tools, _BUILDS, "-j", "2")
    expected = comparable(theirs.run("nix-build", "--no-out-link", *nix_options(), *words).split())
    with daemon(place / "store", place) as running:
        nix = Nix(running.url, place / "home")
        built = comparable(
            nix.text("nix-build", "-o", place / "result", *nix_options(), *words).split()
        )
        assert sorted(built) == sorted(expected)
        assert os.readlink(place / "result") in expected
        for query in ("--hash", "--references", "--deriver"):
            ours = nix.text("nix-store", "-q", query, *built).split()
            assert sorted(ours) == sorted(theirs.run("nix-store", "-q", query, *built).split())
        assert nix.text("nix-build", "--no-out-link", "--check", *nix_options(), *words).split()
        (one,) = json.loads(
            nix.text(
                "nix",
                *nix_options(),
                "build",
                "--no-link",
                "--json",
                "-f",
                _BUILDS,
                "--arg",
                "tools",
                f"{tools}",
                "ca",
            )
        )
        assert one["outputs"]["out"] in expected
        (place / "failing.nix").write_text(_FAILING)
        failing = ("--no-out-link", place / "failing.nix", "--arg", "tools", tools)
        failed = nix.run("nix-build", *failing)
        assert failed.status != 0
        for text in ("\nfirst\nlast\n", "failed with exit code 3", "> last"):
            assert text in failed.err


def test_a_remote_builder(place: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Nix: it sends derivations and inputs, and takes the outputs into its own store."""
    ssh = place / "bin" / "ssh"
    ssh.parent.mkdir()
    # In the place of a network: whatever the command, the server is here.
    server = f"{sys.executable} -m eka --store {place / 'store'} daemon --stdio"
    # Newer ones ask for a master, and have ssh say that it has reached somebody.
    case = 'case "$*" in "-O "*) exit 1;; *"echo started"*) echo started;; esac'
    ssh.write_text(f"#!/bin/sh\n{case}\nexec {server}\n")
    ssh.chmod(0o755)
    nix = NixStore(place / "nix")
    # The process that newer ones ask from has not heard of the experimental features.
    names = ("leaf", "several", *(["useCa"] if nix_version() < (2, 17) else []))
    wanted = [word for name in names for word in ("-A", name)]
    words = ("--no-out-link", *nix_options(), _BUILDS, "--arg", "tools", tools, *wanted)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
        machine = "ssh-ng://elsewhere x86_64-linux - 2 1 ca-derivations"
        built = nix.run("nix-build", *words, "-j0", "--builders", machine).split()
    nix.run("nix-store", "--verify", "--check-contents")
    alone = NixStore(place / "alone")
    assert comparable(alone.run("nix-build", *words).split()) == comparable(built)
