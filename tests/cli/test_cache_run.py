"""Runs, builds and a daemon whose store is empty, and whose paths are in a binary cache of Nix."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.caches import Server, new_key, nix_copy_to, serving
from tests.cli.conftest import open_directory
from tests.cli.world import Done, World
from tests.seed import NixClosure

NOWHERE = f"/nix/store/{'0' * 32}-nowhere"


class Signed(NamedTuple):
    server: Server
    public: str


@pytest.fixture(scope="module")
def signed(closure: NixClosure) -> Iterator[Signed]:
    """The closure of greet, and its derivation, in a cache that is served on loopback."""
    with open_directory() as place:
        secret, public = new_key(place)
        deriver = closure.nix.run("nix-store", "-q", "--deriver", closure.root)
        for words in ((closure.root,), ("--derivation", deriver)):
            nix_copy_to(closure.nix, place / "cache", secret, *words, compression="zstd")
        with serving(place / "cache") as server:
            yield Signed(server, public)


class Fresh(NamedTuple):
    """A world with a store that is empty at first."""

    world: World
    environ: dict[str, str]

    def run(self, *words: str | Path, **env: str) -> Done:
        return self.world.run(*words, env=self.environ | env)

    def listed(self) -> list[str]:
        verified = self.run("eka", "store", "verify", "--deep")
        assert verified.status == 0, (verified.out + verified.err).decode()
        return self.run("eka", "store", "list").out.decode().split()


@pytest.fixture
def fresh(world: World, box: Path, signed: Signed) -> Fresh:
    place = world.place / f"fresh-{box.name}"
    signed.server.asked.clear()
    return Fresh(
        world,
        {
            "EKA_STORE": os.fspath(place / "store"),
            "XDG_CACHE_HOME": os.fspath(place / "cache"),
            "NIX_CONF_DIR": os.fspath(place),
            "EKA_SUBSTITUTERS": signed.server.url,
            "EKA_TRUSTED_PUBLIC_KEYS": signed.public,
        },
    )


def test_a_script_runs_from_a_binary_cache(
    world: World, box: Path, fresh: Fresh, signed: Signed
) -> None:
    packages = f'packages = ["{world.greet}", "{world.busybox}"]'
    script = world.script(box, 'greet "$1"', packages)
    first = fresh.run(script, "cache")
    assert first.out == f"Hello, cache! I live in {world.greet}/bin/greet\n".encode()
    assert first.err.startswith(b"fetching 3 paths (")
    assert first.err.endswith(f" from {signed.server.url}\n".encode())
    assert len(fresh.listed()) == 3
    asked = len(signed.server.asked)
    again = fresh.run(script, "cache")
    assert (again.out, again.err) == (first.out, b"")
    assert len(signed.server.asked) == asked


def test_what_nobody_trusted_has_signed_does_not_run(
    world: World, fresh: Fresh, signed: Signed
) -> None:
    done = fresh.run("eka", "run", world.greet, EKA_TRUSTED_PUBLIC_KEYS="")
    assert (done.status, done.out) == (27, b"")
    assert "signed only by test-1" in done.err.decode()
    assert fresh.listed() == []
    done = fresh.run("eka", "run", NOWHERE)
    assert done.status == 20
    assert f"nor in {signed.server.url}" in done.err.decode()
    done = fresh.run("eka", "--offline", "run", world.greet)
    assert done.status == 20
    assert "without `--offline` it would be looked for" in done.err.decode()


def test_a_build_takes_what_a_cache_has(
    world: World, fresh: Fresh, signed: Signed, closure: NixClosure
) -> None:
    deriver = closure.nix.run("nix-store", "-q", "--deriver", closure.root)
    done = fresh.run("eka", "build", "--no-link", deriver)
    assert done.status == 0, done.err.decode()
    assert done.out == f"{world.greet}\n".encode()
    assert world.greet in fresh.listed()
    assert "fetching" in done.err.decode()
