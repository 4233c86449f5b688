"""The same derivations built by Nix, sandboxed, and by us: same paths, bytes and references."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builds import (
    VECTORS,
    Derivations,
    build,
    comparable,
    info,
    instantiate,
    nix_options,
    path_infos,
)
from tests.cli.conftest import open_directory
from tests.cli.world import World
from tests.requirements import lacking
from tests.seed import busybox_tree


@pytest.fixture(scope="session")
def derivations() -> Iterator[Derivations]:
    with open_directory() as place:
        yield instantiate(place, "builds.nix")


@pytest.fixture(scope="session")
def built(derivations: Derivations) -> list[str]:
    """By Nix: the outputs."""
    words = (*nix_options(), "--realise", "-j", "2", *derivations.drvs.values())
    return comparable(derivations.nix.run("nix-store", *words).split())


def test_builds_are_those_of_nix(world: World, derivations: Derivations, built: list[str]) -> None:
    derivations.load(world)
    done = build(world, "-j", "2", "--json", *derivations.drvs.values())
    assert done.status == 0, done.err.decode()
    outcomes = [json.loads(line) for line in done.out.splitlines()]
    assert {one["drvPath"] for one in outcomes} == set(derivations.drvs.values())
    outputs = {path for one in outcomes for path in one["outputs"].values()}
    assert outputs >= set(built)
    theirs = path_infos(derivations.nix, built)
    for ours in info(world, *theirs):
        other = theirs[ours["path"]]
        assert ours["narHash"] == other["narHash"]
        assert ours["narSize"] == other["narSize"]
        assert sorted(ours["references"]) == sorted(other["references"])
        assert ours["deriver"] == other.get("deriver")
        if other.get("deriver"):
            # Of what came in an export stream, nobody has told us.
            assert ours["ca"] == other.get("ca")


@pytest.mark.parametrize(
    ("runtime", "mode"),
    # The other tests start theirs by crun, in the mode outer.
    [("crun", "direct"), ("crun", "degraded"), ("runc", "outer"), ("runc", "direct")],
)
def test_every_way_to_start_them_gives_the_same(
    world: World, derivations: Derivations, built: list[str], runtime: str, mode: str
) -> None:
    env = {"EKA_RUNTIME": runtime, "EKA_MODE": mode}
    told = world.run("eka", "doctor", env=env).out.decode()
    if f"mode: {mode} with {runtime}" not in told:
        lacking(f"this user cannot start {runtime} in the mode {mode}")
    derivations.load(world)
    # One with the host's network, several outputs, references to others and to itself.
    drvs = [derivations.drvs[name] for name in ("fixedTree", "useSeveral", "several", "self")]
    done = build(world, "-j", "2", "--check", *drvs, env=env)
    assert done.status == 0, done.err.decode()
    outputs = set(done.out.decode().split())
    assert outputs <= set(built)
    theirs = path_infos(derivations.nix, built)
    for ours in info(world, *outputs):
        assert ours["narHash"] == theirs[ours["path"]]["narHash"]
        assert sorted(ours["references"]) == sorted(theirs[ours["path"]]["references"])


def test_nix_build_in_a_bundle(world: World, box: Path, built: list[str]) -> None:
    shutil.copy(VECTORS / "builds.nix", box / "builds.nix")
    tools = busybox_tree(box)
    words = ("builds.nix", "--arg", "tools", f"./{tools.name}", "-A", "several.dev")
    done = world.run("eka", "nix", "--", "nix-build", *words, cwd=box)
    assert done.status == 0, done.err.decode()
    assert done.out.decode().strip() in built
    assert os.readlink(box / "result-dev") in built
    text = "{ floating = (import ./builds.nix { tools = ./busybox-tools; }).ca; }"
    world.file(box / "own.nix", text)
    done = build(world, "own.nix#floating", cwd=box)
    assert done.status == 0, done.err.decode()
    assert done.out.decode().strip() in built
