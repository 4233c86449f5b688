"""Scripts whose packages are not in the store, but in services that are given by URLs alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.conftest import open_directory
from tests.cli.world import Done, World
from tests.installed import copy_distributions, dependencies
from tests.requirements import lacking

VARIABLES = ("BLOB_SERVICE_ADDR", "DIRECTORY_SERVICE_ADDR", "PATH_INFO_SERVICE_ADDR")
LIBRARIES = ("grpcio", "pyfastcdc")
NOWHERE = f"/nix/store/{'0' * 32}-nowhere"


@pytest.fixture(scope="module")
def libraries() -> Iterator[Path]:
    """A PYTHONPATH with what the extras of eka would install."""
    try:
        names = set.union(*(dependencies(name) | {name} for name in LIBRARIES))
    except PackageNotFoundError as error:
        lacking(str(error))
    with open_directory() as place:
        copy_distributions(names, place)
        subprocess.run(["chmod", "-R", "a+rX", place], check=True)
        yield place


@pytest.fixture
def far(world: World, box: Path, libraries: Path) -> Far:
    store = world.directory(f"{box.name}-store") / "store"
    return Far(world, {"EKA_STORE": os.fspath(store), "PYTHONPATH": os.fspath(libraries)})


@pytest.fixture
def bucket(world: World, box: Path, libraries: Path) -> str:
    """The URL of an object store in files, with the closure of greet and busybox."""
    url = f"objectstore+file://{box}/bucket"
    env = {"PYTHONPATH": os.fspath(libraries)}
    done = world.run("eka", "store", "copy", "--to", url, world.greet, world.busybox, env=env)
    assert done.status == 0, done.err.decode()
    return url


@pytest.fixture
def server(world: World, box: Path, libraries: Path) -> Iterator[str]:
    """The URL of the world's own store, served on a socket."""
    command = ("eka", "store", "serve", "--grpc", "--read-only", "--listen", f"unix:{box}/s")
    env = {"PYTHONPATH": os.fspath(libraries)}
    with world.popen(*command, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait() in (0, 130)


class Far(NamedTuple):
    """Starts with a store that is empty at first, and with far services."""

    world: World
    environ: dict[str, str]

    def environment(self, *urls: str) -> dict[str, str]:
        return self.environ | dict(zip(VARIABLES, urls * (3 // len(urls)), strict=True))

    def run(self, *words: str | Path, urls: tuple[str, ...], **env: str) -> Done:
        return self.world.run(*words, env=self.environment(*urls) | env)

    def listed(self) -> list[str]:
        """What the store has, which must be intact."""
        verified = self.world.run("eka", "store", "verify", "--deep", env=self.environ)
        assert verified.status == 0, (verified.out + verified.err).decode()
        return self.world.run("eka", "store", "list", env=self.environ).out.decode().split()


def greeting(world: World, box: Path) -> Path:
    return world.script(box, 'greet "$1"', f'packages = ["{world.greet}", "{world.busybox}"]')


def fails(done: Done, status: int, *texts: str) -> None:
    assert done.status == status, done.err.decode()
    assert done.out == b""
    for text in ("error: ", "hint: ", *texts):
        assert text in done.err.decode()


def test_a_script_runs_from_a_blob_store(world: World, box: Path, far: Far, bucket: str) -> None:
    script = greeting(world, box)
    first = far.run(script, "far", urls=(bucket,))
    assert first.out == f"Hello, far! I live in {world.greet}/bin/greet\n".encode()
    assert first.status == 0
    assert first.err.startswith(b"fetching 3 paths (")
    assert first.err.endswith(f" from {bucket}\n".encode())
    assert len(far.listed()) == 3
    # From now on nobody is asked, and there is nobody to ask.
    shutil.rmtree(box / "bucket")
    for _ in range(2):
        again = far.run(script, "far", urls=(bucket,))
        assert (again.out, again.err) == (first.out, b"")


def test_a_script_runs_from_a_server(world: World, box: Path, far: Far, server: str) -> None:
    done = far.run(greeting(world, box), "server", urls=(server,))
    assert (done.status, done.out[:14]) == (0, b"Hello, server!"), done.err.decode()
    assert f"from {server}\n".encode() in done.err
    assert len(far.listed()) == 3


def test_blobs_may_be_elsewhere_than_what_is_known_of_them(
    world: World, box: Path, far: Far, bucket: str, server: str
) -> None:
    done = far.run(greeting(world, box), "both", urls=(bucket, server, server))
    assert (done.status, done.out[:12]) == (0, b"Hello, both!"), done.err.decode()
    assert f"from {bucket}, {server}\n".encode() in done.err


def test_a_server_needs_the_extra(world: World, box: Path, far: Far) -> None:
    done = far.run(greeting(world, box), urls=(f"grpc+unix:{box}/s",), PYTHONPATH="")
    fails(done, 2, "cannot be fetched: ", "pip install 'eka[grpc]'")


@pytest.mark.parametrize("words", [["run"], ["explain"], ["shell", "-i", "true"]])
def test_services_of_eka_toml(
    world: World, box: Path, far: Far, bucket: str, words: list[str]
) -> None:
    world.directory(f"{box.name}/eka")
    world.file(box / "eka" / "eka.toml", f'[services]\nurl = "{bucket}"\n')
    env = far.environ | {"XDG_CONFIG_HOME": os.fspath(box)}
    done = world.run("eka", *words, world.busybox, env=env)
    said, _, rest = done.err.partition(b"\n")
    assert said.startswith(b"fetching 1 path (")
    assert far.listed() == [world.busybox]
    again = world.run("eka", *words, world.busybox, env=env)
    assert (again.status, again.out, again.err) == (done.status, done.out, rest)


def test_mentions_are_fetched(world: World, box: Path, far: Far, bucket: str) -> None:
    text = f"#!{world.busybox}/bin/sh\n# {world.greet}.\n{world.greet}/bin/greet scan\n"
    script = world.file(box / "script", text, 0o755)
    done = far.run("eka-run", script, urls=(bucket,))
    assert done.out.startswith(b"Hello, scan!"), done.err.decode()
    assert done.err.startswith(b"fetching 3 paths")


def test_offline_fetches_nothing(world: World, box: Path, far: Far, bucket: str) -> None:
    text = f"without `--offline` it would be looked for in {bucket}"
    script = greeting(world, box)
    fails(far.run("eka-run", "--offline", script, urls=(bucket,)), 20, text)
    fails(far.run("eka", "--offline", "run", world.greet, urls=(bucket,)), 20, text)
    assert far.listed() == []


def test_what_no_service_has(world: World, box: Path, far: Far, bucket: str) -> None:
    script = world.script(box, "true", f'packages = ["{world.busybox}", "{NOWHERE}"]')
    done = far.run(script, urls=(bucket,))
    assert done.status == 20
    assert f"`{NOWHERE}` is neither in the store" in done.err.decode()
    assert "asked for by packages" in done.err.decode()


def test_a_service_that_is_not_there(world: World, box: Path, far: Far) -> None:
    urls = (f"grpc+unix:{box}/nobody",)
    done = far.run(greeting(world, box), urls=urls)
    fails(done, 28, "is not in the store, and cannot be fetched", "cannot reach grpc+unix:")
    # What is there runs all the same.
    mine = world.environment()["EKA_STORE"]
    done = far.run(greeting(world, box), "you", urls=urls, EKA_STORE=mine)
    assert done.out.startswith(b"Hello, you!")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redb:/var/lib/snix/x.redb", "snix-store daemon"),
        ("https://cache.nixos.org", "objectstore+https://cache.nixos.org"),
        ("nonsense", "objectstore+file:///DIR"),
    ],
)
def test_addresses_that_cannot_be_used(
    world: World, box: Path, far: Far, url: str, text: str
) -> None:
    fails(far.run(greeting(world, box), urls=(url,)), 2, f"`{url}`", text)


def test_half_a_configuration(world: World, box: Path, far: Far) -> None:
    done = far.run(greeting(world, box), urls=("memory:", "", "memory:"))
    fails(done, 11, "set DIRECTORY_SERVICE_ADDR")


def test_a_damaged_bucket_runs_nothing(world: World, box: Path, far: Far, bucket: str) -> None:
    for chunk in (box / "bucket" / "chunks").rglob("*"):
        if chunk.is_file():
            chunk.chmod(0o644)
            chunk.write_bytes(chunk.read_bytes()[:-1])
    done = far.run(greeting(world, box), urls=(bucket,))
    assert done.status == 25, done.err.decode()
    assert done.out == b""
    assert world.greet not in far.listed()


@pytest.mark.parametrize("words", [["eka-run"], ["eka", "explain"], ["eka", "store", "copy"]])
def test_a_silent_service_can_be_interrupted(
    world: World, box: Path, far: Far, words: list[str]
) -> None:
    target = world.greet if "copy" in words else greeting(world, box)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = far.environment(f"grpc+http://127.0.0.1:{silent.getsockname()[1]}")
        with world.popen(*words, target, env=env, stderr=subprocess.PIPE) as process:
            peer, _ = silent.accept()
            with peer:
                process.send_signal(signal.SIGINT)
                _, said = process.communicate()
                assert process.returncode == 130, said.decode()
                # The process that fetches is gone as well: its end of the line is closed.
                while peer.recv(1 << 16):
                    pass
    assert far.listed() == []
