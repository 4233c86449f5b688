"""Store content made from what the machine has: its static busybox, and closures built by real Nix.

Nix works in a store of its own below the given directory (`--store`), so neither root nor /nix is
needed, and nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.installed import REPOSITORY
from tests.requirements import require

NIX_CONFIG = "substituters =\nbuild-users-group =\nsandbox = true\n"


class NixClosure(NamedTuple):
    """`root` is the built path, `paths` its closure, `stream` a file that Nix exported it to."""

    root: str
    paths: tuple[str, ...]
    stream: Path
    nix: NixStore


class NixStore(NamedTuple):
    """A store of real Nix whose paths say /nix/store and whose files lie below `directory`."""

    directory: Path

    def run(self, tool: str, *arguments: str | os.PathLike[str]) -> str:
        """stdout, without the last newline."""
        return self.output(tool, *arguments).decode().rstrip("\n")

    def output(self, tool: str, *arguments: str | os.PathLike[str]) -> bytes:
        command = [require(tool), "--store", self.directory, *arguments]
        environ = os.environ | {"NIX_CONFIG": NIX_CONFIG, "HOME": os.fspath(self.directory)}
        done = subprocess.run(command, env=environ, capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{command} failed: {done.stderr.decode(errors='replace')}")
        return done.stdout


def busybox_tree(directory: Path) -> Path:
    """`directory`/busybox-tools: a package with every applet in its bin/."""
    busybox = require("busybox")
    place = directory / "busybox-tools" / "bin"
    place.mkdir(parents=True)
    shutil.copy(busybox, place / "busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, check=True, text=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            (place / applet).symlink_to("busybox")
    return place.parent


def greet_closure(directory: Path) -> NixClosure:
    """Builds examples/greet.nix with real Nix and exports its closure."""
    nix = NixStore(directory / "nix")
    tree = busybox_tree(directory)
    expression = REPOSITORY / "examples" / "greet.nix"
    arguments = ("--no-out-link", "--quiet", expression, "--arg", "busybox", tree)
    root = nix.run("nix-build", *arguments)
    paths = tuple(nix.run("nix-store", "-qR", root).split())
    stream = directory / "closure.export"
    stream.write_bytes(nix.output("nix-store", "--export", *paths))
    return NixClosure(root, paths, stream, nix)
