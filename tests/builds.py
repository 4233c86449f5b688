"""Derivations for tests, instantiated and perhaps built by real Nix in a store of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eka_runtime.nix.path import StorePath
from tests.cli.world import Done, World
from tests.requirements import require
from tests.seed import NixStore, busybox_tree

VECTORS = Path(__file__).parent / "vectors"


class Derivations(NamedTuple):
    """`drvs` are the paths of `.drv` files by attribute; `stream` has them and their inputs."""

    nix: NixStore
    drvs: Mapping[str, str]
    stream: Path

    def load(self, world: World) -> None:
        """Into the world's store."""
        with self.stream.open("rb") as stream:
            done = world.run("eka", "store", "import", stdin=stream)
        assert done.status == 0, done.err.decode()

    def options(self) -> tuple[str, ...]:
        return nix_options()


def nix_options() -> tuple[str, ...]:
    """That let Nix build what we build, in its own sandbox with the same /bin/sh."""
    return (
        *("--option", "experimental-features", "nix-command ca-derivations"),
        *("--option", "sandbox-paths", f"/bin/sh={os.path.realpath(require('busybox'))}"),
    )


def instantiate(directory: Path, expression: str, **arguments: Path) -> Derivations:
    """Everything in tests/vectors/<expression>, a set of derivations; `arguments` are trees."""
    nix, tools = NixStore(directory / "nix"), busybox_tree(directory)
    given = [
        word for name, value in arguments.items() for word in ("--arg", name, os.fspath(value))
    ]
    file = ("--arg", "tools", tools, *given, VECTORS / expression)
    # Both are in the order of the attributes' names.
    paths = nix.run("nix-instantiate", *nix_options(), *file).split()
    parameters = ", ".join(("tools", *arguments))
    names = f"args: builtins.attrNames (import {VECTORS / expression} args)"
    every = ("--eval", "--strict", "--json", "--expr", f"{{ {parameters} }}@{names}", *file[:-1])
    drvs = dict(zip(json.loads(nix.run("nix-instantiate", *every)), paths, strict=True))
    closure = nix.run("nix-store", "-qR", *paths).split()
    stream = directory / "derivations.export"
    stream.write_bytes(nix.output("nix-store", "--export", *closure))
    return Derivations(nix, drvs, stream)


def path_infos(nix: NixStore, paths: list[str]) -> dict[str, dict[str, Any]]:
    """Of Nix, for a closure."""
    found = json.loads(nix.run("nix", *nix_options(), "path-info", "--json", "-r", *paths))
    # Since Nix 2.19 it is a table by path.
    if isinstance(found, dict):
        found = [{"path": path, **record} for path, record in found.items()]
    return {record["path"]: record for record in found}


def nix_version() -> tuple[int, ...]:
    said = subprocess.run([require("nix-store"), "--version"], capture_output=True, check=True)
    return tuple(map(int, re.findall(r"\d+", said.stdout.decode())[:2]))


# Nix forgot from 2.17 to 2.34 to hash where a content-addressed output names itself
# (https://github.com/NixOS/nix/pull/15931): those are elsewhere there, and what is made of them.
_FORGOTTEN = (2, 17), (2, 35)
_NAMED_THEMSELVES = "ca-self", "ca-two", "ca-two-lib", "use-ca", "use-ca-floating"
# From here on, a builder is told of a closure's paths that they are `valid`.
_TOLD_MORE = (2, 19)


def comparable(paths: Iterable[str]) -> list[str]:
    """Those of outputs of `builds.nix` that are the same for this Nix and for us."""
    version = nix_version()
    other = set(_NAMED_THEMSELVES if _FORGOTTEN[0] <= version < _FORGOTTEN[1] else ())
    other |= {"structured"} if version >= _TOLD_MORE else set()
    return [path for path in paths if StorePath.parse(path).name not in other]


def build(world: World, *words: str, **more: Any) -> Done:
    """`eka build` without links unless told otherwise."""
    link = () if "-o" in words else ("--no-link",)
    return world.run("eka", "build", *link, *words, **more)


def info(world: World, *paths: str) -> list[dict[str, Any]]:
    done = world.run("eka", "store", "info", "--json", *paths)
    assert done.status == 0, done.err.decode()
    return [json.loads(line) for line in done.out.splitlines()]
