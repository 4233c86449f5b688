"""The next version of a package, from a cache that has blobs: only what is new of it is sent."""

from __future__ import annotations

import os
import random
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

import pytest

from eka_runtime.castore.digest import B3Digest
from tests.caches import Request, Server, new_key
from tests.caches import serving as serving_files
from tests.cli.world import World

FILES, EACH = 20, 16 << 10
NEW = b"new contents\n"


class Between(NamedTuple):
    """A server that passes on what it is asked for, and remembers it."""

    server: Server
    public: str
    versions: tuple[str, str]

    def fetch(self, world: World, store: Path, number: int) -> list[str]:
        """What was asked for to have that version, which is there then."""
        before = len(self.server.asked)
        env = {
            "EKA_STORE": os.fspath(store),
            "XDG_CACHE_HOME": os.fspath(store.parent / "cache"),
            "EKA_TRUSTED_PUBLIC_KEYS": self.public,
            "NIX_CONF_DIR": os.fspath(store.parent),
        }
        words = ("--from", self.server.url, self.versions[number])
        done = world.run("eka", "store", "copy", *words, env=env)
        assert done.status == 0, done.err.decode()
        checked = world.run("eka", "store", "verify", "--deep", env=env)
        assert checked.status == 0, checked.err.decode()
        shown = world.run("eka", "store", "cat", f"{self.versions[number]}/share/7", env=env)
        assert shown.out == (NEW if number else _contents(7))
        return self.server.asked[before:]


def _contents(number: int) -> bytes:
    """Nothing that could be compressed."""
    return random.Random(number).randbytes(EACH)


@pytest.fixture(params=["served", "files"])
def between(world: World, box: Path, request: pytest.FixtureRequest) -> Iterator[Between]:
    """The cache is `eka store serve`, or a directory that a plain server shows."""
    origin = {"EKA_STORE": os.fspath(box / "origin")}
    versions = []
    for version in ("1.0", "1.1"):
        for name in (version, f"{version}/share", f"{version}/bin"):
            world.directory(os.fspath(box / name))
        for number in range(FILES):
            world.file(box / version / "share" / str(number), _contents(number))
        world.file(box / version / "bin" / "tool", b"#!/bin/sh\n", 0o755)
        if version == "1.1":
            world.file(box / version / "share" / "7", NEW)
        words = ("--name", f"tool-{version}", box / version)
        done = world.run("eka", "store", "add", *words, env=origin)
        assert done.status == 0, done.err.decode()
        versions.append(done.out.decode().strip())
    secret, public = new_key(box)
    world.file(secret, secret.read_bytes())
    if request.param == "files":
        url = f"file://{box}/cache?castore=1&secret-key={secret}"
        done = world.run("eka", "store", "copy", "--to", url, *versions, env=origin)
        assert done.status == 0, done.err.decode()
        with serving_files(box / "cache") as server:
            yield Between(server, public, (versions[0], versions[1]))
        return
    words = ("eka", "store", "serve", "--listen", "127.0.0.1:0", "--key-file", secret)
    with world.popen(*words, env=origin, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with passing_on(process.stdout.readline().decode().strip(), box) as server:
            yield Between(server, public, (versions[0], versions[1]))
        process.kill()


@contextmanager
def passing_on(url: str, place: Path) -> Iterator[Server]:
    def instead(request: Request) -> bool:
        try:
            with urllib.request.urlopen(f"{url}/{request.name}") as answer:
                request.answer(200, answer.read())
        except HTTPError as error:
            request.answer(error.code)
        return True

    with serving_files(place) as server:
        server.instead = instead
        yield server


def kinds(asked: list[str]) -> dict[str, int]:
    found = {"nar/": 0, "castore/blob/": 0, "castore/directory/": 0}
    for name in asked:
        for kind in found:
            found[kind] += name.startswith(kind)
    return found


def test_only_new_files_of_the_next_version_are_sent(
    world: World, between: Between, box: Path
) -> None:
    store = world.directory(f"{box.name}-near") / "store"
    first = kinds(between.fetch(world, store, 0))
    assert first == {"nar/": 1, "castore/blob/": 0, "castore/directory/": 0}
    # The top and share/ are others, bin/ is the same.
    second = kinds(between.fetch(world, store, 1))
    assert second == {"nar/": 0, "castore/blob/": 1, "castore/directory/": 2}


@pytest.mark.parametrize("between", ["files"], indirect=True)
def test_a_cache_of_files_has_each_blob_once(between: Between, box: Path) -> None:
    blobs = {file.name: file.read_bytes() for file in (box / "cache/castore/blob").iterdir()}
    assert sorted(blobs) == sorted(B3Digest.of(data).hex() for data in blobs.values())
    assert len(blobs) == FILES + len(("tool", NEW))
    assert len(list((box / "cache/castore/directory").iterdir())) == 2 + 2 + 1


def test_without_a_version_before_a_nar_is_asked_for(
    world: World, between: Between, box: Path
) -> None:
    store = world.directory(f"{box.name}-near") / "store"
    asked = kinds(between.fetch(world, store, 1))
    assert asked == {"nar/": 1, "castore/blob/": 0, "castore/directory/": 0}


@pytest.mark.parametrize("answer", [None, b"something else"], ids=["missing", "wrong"])
@pytest.mark.parametrize("kind", ["castore/blob/", "castore/directory/"])
def test_what_a_cache_gives_wrongly_comes_as_a_nar(
    world: World, between: Between, box: Path, kind: str, answer: bytes | None
) -> None:
    store = world.directory(f"{box.name}-near") / "store"
    between.fetch(world, store, 0)
    honest = between.server.instead

    def lying(request: Request) -> bool:
        if not request.name.startswith(kind):
            return honest(request)
        request.answer(404 if answer is None else 200, answer or b"")
        return True

    between.server.instead = lying
    assert kinds(between.fetch(world, store, 1))["nar/"] == 1


def test_much_that_is_new_comes_as_a_nar(world: World, between: Between, box: Path) -> None:
    """With another package of the name, of which nothing is of use."""
    store = world.directory(f"{box.name}-near") / "store"
    other = world.file(box / "other", b"nothing alike\n")
    env = {"EKA_STORE": os.fspath(store)}
    done = world.run("eka", "store", "add", "--name", "tool-0.9", other, env=env)
    assert done.status == 0, done.err.decode()
    asked = kinds(between.fetch(world, store, 1))
    assert (asked["nar/"], asked["castore/blob/"]) == (1, 0)
