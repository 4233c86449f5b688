"""`--lazy` from a binary cache that `eka store serve` serves over HTTP, and from one that lies."""

from __future__ import annotations

import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

import pytest

from eka_runtime.castore.digest import B3Digest
from tests.caches import Request, new_key
from tests.caches import serving as serving_files
from tests.cli.test_far_store import Far, libraries
from tests.cli.test_lazy import BIG, SMALL, Origin, blobs, origin, reading
from tests.cli.world import World

__all__ = ["libraries", "origin"]

_DIGEST = B3Digest.of(SMALL)


class Served(NamedTuple):
    """The origin as a binary cache, in a process of its own."""

    url: str
    public: str
    process: subprocess.Popen[bytes]


@contextmanager
def serving(origin: Origin, place: Path, *words: str) -> Iterator[Served]:
    secret, public = new_key(place)
    origin.world.file(secret, secret.read_bytes())
    command = ("eka", "store", "serve", "--listen", "127.0.0.1:0", "--key-file", secret, *words)
    env = {"EKA_STORE": os.fspath(origin.store)}
    with origin.world.popen(*command, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield Served(process.stdout.readline().decode().strip(), public, process)
        finally:
            process.kill()


@pytest.fixture
def far(world: World, box: Path) -> Far:
    """A store that is empty at first, and an own memory of what caches have answered."""
    place = world.place / f"fresh-{box.name}"
    return Far(
        world,
        {
            "EKA_STORE": os.fspath(place / "store"),
            "XDG_CACHE_HOME": os.fspath(place / "cache"),
            "NIX_CONF_DIR": os.fspath(place),
        },
    )


def environment(far: Far, url: str, public: str) -> dict[str, str]:
    return far.environ | {"EKA_SUBSTITUTERS": url, "EKA_TRUSTED_PUBLIC_KEYS": public}


@contextmanager
def meddling(
    served: Served,
    place: Path,
    change: dict[str, bytes | None],
    line: tuple[bytes, bytes] | None = None,
) -> Iterator[str]:
    """The URL of a server before it; it gives other contents for names that begin like these.

    In narinfos, `line` is put in place of lines that begin with its first half.
    """

    def instead(request: Request) -> bool:
        for name, data in change.items():
            if request.name.startswith(name):
                request.answer(404 if data is None else 200, data or b"")
                return True
        try:
            with urllib.request.urlopen(f"{served.url}/{request.name}") as answer:
                body = answer.read()
        except HTTPError as error:
            request.answer(error.code)
            return True
        if line and request.name.endswith(".narinfo"):
            start, other = line
            lines = [other if one.startswith(start) else one for one in body.splitlines()]
            body = b"".join(one + b"\n" for one in lines if one)
        request.answer(200, body)
        return True

    with serving_files(place) as server:
        server.instead = instead
        yield server.url


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_only_what_is_read_has_to_be_there(
    origin: Origin, box: Path, far: Far, compression: str
) -> None:
    script = reading(origin, box, "cat DATA/small; stat -c %s DATA/big")
    with origin.without_big(), serving(origin, box, "--compression", compression) as served:
        env = environment(far, served.url, served.public)
        done = origin.world.run("eka-run", "--lazy", script, env=env)
        assert done.status == 0, done.err.decode()
        assert done.out == SMALL + b"%d\n" % BIG
        assert done.err.startswith(b"starting before 2 paths (")
        assert f" came from {served.url}\n".encode() in done.err
        eager = origin.world.run("eka-run", script, env=env)
        assert (eager.status != 0, eager.out) == (True, b"")
    assert BIG not in blobs(far)
    assert origin.package not in far.listed()


def test_a_cache_of_files_does_as_well(origin: Origin, box: Path, far: Far) -> None:
    secret, public = new_key(box)
    origin.world.file(secret, secret.read_bytes())
    url = f"file://{box}/cache?castore=1&secret-key={secret}"
    origin.run("eka", "store", "copy", "--to", url, origin.package, origin.world.busybox)
    blobs_there = list((box / "cache/castore/blob").iterdir())
    [big] = [file for file in blobs_there if file.stat().st_size == BIG]
    big.unlink()
    script = reading(origin, box, "cat DATA/small; stat -c %s DATA/big")
    with serving_files(box / "cache") as server:
        env = environment(far, server.url, public)
        done = origin.world.run("eka-run", "--lazy", script, env=env)
    assert (done.status, done.out) == (0, SMALL + b"%d\n" % BIG), done.err.decode()


def test_the_rest_of_a_cache_comes_beside_the_program(origin: Origin, box: Path, far: Far) -> None:
    script = reading(origin, box, "echo ready; read line; cat DATA/big | wc -c")
    with serving(origin, box) as served:
        env = environment(far, served.url, served.public)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = origin.world.popen("eka-run", "-v", "--lazy", script, env=env, **pipes)
        assert process.stderr is not None
        lines = iter(process.stderr.readline, b"")
        assert any(line.startswith(b"complete: 2 paths") for line in lines)
        served.process.kill()
        out, _ = process.communicate(b"\n", timeout=60)
        assert (process.returncode, out) == (0, b"ready\n%d\n" % BIG)
    assert sorted(far.listed()) == sorted([origin.world.busybox, origin.package])


def test_a_server_that_goes_is_an_input_error(origin: Origin, box: Path, far: Far) -> None:
    script = reading(origin, box, "echo ready; read line; cat DATA/big > /dev/null")
    with origin.without_big(), serving(origin, box) as served:
        env = environment(far, served.url, served.public)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = origin.world.popen("eka-run", "--lazy", script, env=env, **pipes)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        served.process.kill()
        _, err = process.communicate(b"\n", timeout=60)
    assert process.returncode != 0
    assert b"Input/output error" in err
    assert b"eka: cannot show blob blake3-" in err


FORGED = b"EkaCastoreSig: test-1:" + b"A" * 86 + b"=="


@pytest.mark.parametrize(
    "line",
    [(b"EkaCastoreSig:", FORGED), (b"EkaCastoreSig:", b""), (b"EkaCastore:", b"EkaCastore: !")],
)
def test_a_node_that_nobody_signed_is_fetched_first(
    origin: Origin, box: Path, far: Far, line: tuple[bytes, bytes]
) -> None:
    script = reading(origin, box, "cat DATA/small")
    with serving(origin, box) as served, meddling(served, box, {}, line) as url:
        env = environment(far, url, served.public)
        done = origin.world.run("eka-run", "--lazy", script, env=env)
    assert (done.status, done.out) == (0, SMALL), done.err.decode()
    assert done.err.startswith(b"fetching 2 paths")
    assert b"starting before" not in done.err
    assert sorted(far.listed()) == sorted([origin.world.busybox, origin.package])


def test_without_signatures_only_where_none_are_required(
    origin: Origin, box: Path, far: Far
) -> None:
    script = reading(origin, box, "cat DATA/small")
    with serving(origin, box) as served, meddling(served, box, {}, (b"EkaCastoreSig:", b"")) as url:
        env = environment(far, f"{url}?trusted=1", "")
        done = origin.world.run("eka-run", "--lazy", script, env=env)
    assert (done.status, done.out) == (0, SMALL), done.err.decode()
    assert done.err.startswith(b"starting before 2 paths (")


def test_what_cannot_be_promised_comes_first(origin: Origin, box: Path, far: Far) -> None:
    """One path whose node is not signed does not keep the others from coming later."""
    script = reading(origin, box, "cat DATA/small")
    digits = origin.world.busybox.removeprefix("/nix/store/")[:32]
    with origin.without_big(), serving(origin, box) as served:
        with urllib.request.urlopen(f"{served.url}/{digits}.narinfo") as answer:
            plain = b"".join(
                line for line in answer.read().splitlines(True) if not line.startswith(b"Eka")
            )
        with meddling(served, box, {f"{digits}.narinfo": plain}) as url:
            env = environment(far, url, served.public)
            done = origin.world.run("eka-run", "--lazy", script, env=env)
    assert (done.status, done.out) == (0, SMALL), done.err.decode()
    assert far.listed() == [origin.world.busybox]


@pytest.mark.parametrize("directory", [None, b"", b"not a directory"])
def test_wrong_directories_are_fetched_as_nars(
    origin: Origin, box: Path, far: Far, directory: bytes | None
) -> None:
    script = reading(origin, box, "cat DATA/small")
    change = {"castore/directory/": directory}
    with serving(origin, box) as served, meddling(served, box, change) as url:
        env = environment(far, url, served.public)
        done = origin.world.run("eka-run", "--lazy", script, env=env)
    assert (done.status, done.out) == (0, SMALL), done.err.decode()
    assert b"warning: everything is fetched before the start: " in done.err
    assert sorted(far.listed()) == sorted([origin.world.busybox, origin.package])


@pytest.mark.parametrize("blob", [None, b"", b"other contents", bytes(BIG)])
def test_a_wrong_blob_is_an_input_error(
    origin: Origin, box: Path, far: Far, blob: bytes | None
) -> None:
    script = reading(origin, box, "cat DATA/small")
    change = {f"castore/blob/{_DIGEST.hex()}": blob}
    with serving(origin, box) as served, meddling(served, box, change) as url:
        env = environment(far, url, served.public)
        done = origin.world.run("eka-run", "--lazy", script, env=env)
    assert (done.status != 0, done.out) == (True, b""), done.err.decode()
    assert b"Input/output error" in done.err
    assert f"eka: cannot show blob {_DIGEST}".encode() in done.err
    assert origin.package not in far.listed()
