"""`--lazy`: a program runs before its packages are there, over a server on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.test_far_store import Far, fails, far, libraries
from tests.cli.world import World
from tests.views import need_fuse

__all__ = ["far", "libraries"]

SMALL, BIG = b"small and read\n" * 20, 3 << 20


class Origin(NamedTuple):
    """A store that is served: busybox, and a package with a file that nobody reads."""

    world: World
    store: Path
    package: str
    libraries: Path

    def run(self, *words: str | Path, **more: object) -> bytes:
        env = {"EKA_STORE": os.fspath(self.store), "PYTHONPATH": os.fspath(self.libraries)}
        done = self.world.run(*words, env=env, **more)
        assert done.status == 0, done.err.decode()
        return done.out

    @contextmanager
    def served(self) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        words = ("eka", "store", "serve", "--grpc", "--read-only", "--listen", "127.0.0.1:0")
        env = {"EKA_STORE": os.fspath(self.store), "PYTHONPATH": os.fspath(self.libraries)}
        with self.world.popen(*words, env=env, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                yield process.stdout.readline().decode().strip(), process
            finally:
                process.kill()

    @contextmanager
    def without_big(self) -> Iterator[None]:
        """Meanwhile whoever asks for the big file gets an error."""
        files = [file for file in (self.store / "blobs").rglob("*") if file.is_file()]
        [big] = [file for file in files if file.stat().st_size == BIG]
        away = big.rename(self.store.parent / "big")
        try:
            yield
        finally:
            away.rename(big)


@pytest.fixture(scope="module")
def origin(world: World, libraries: Path) -> Origin:
    need_fuse()
    # Two modules use it, and it is made again when users take turns.
    place = world.directory(f"lazy-origin-{os.urandom(4).hex()}")
    made = Origin(world, place / "store", "", libraries)
    exported = world.run("eka", "store", "export", world.busybox)
    with world.file(place / "closure", exported.out).open("rb") as stream:
        made.run("eka", "store", "import", stdin=stream)
    tree = world.directory(f"{place.name}/data")
    world.file(tree / "small", SMALL)
    world.file(tree / "big", os.urandom(BIG))
    package = made.run("eka", "store", "add", tree).decode().strip()
    return made._replace(package=package)


def reading(origin: Origin, box: Path, code: str) -> Path:
    header = f'packages = ["{origin.world.busybox}", "{origin.package}"]'
    return origin.world.script(box, code.replace("DATA", origin.package), header)


def blobs(far: Far) -> list[int]:
    """Sizes of the large files that the store has."""
    found = (Path(far.environ["EKA_STORE"]) / "blobs").rglob("*")
    return sorted(file.stat().st_size for file in found if file.is_file())


def test_only_what_is_read_has_to_be_there(origin: Origin, box: Path, far: Far) -> None:
    script = reading(origin, box, "cat DATA/small; stat -c %s DATA/big")
    with origin.without_big(), origin.served() as (url, _):
        done = far.run("eka-run", "--lazy", script, urls=(url,))
        assert done.status == 0, done.err.decode()
        assert done.out == SMALL + b"%d\n" % BIG
        assert done.err.startswith(b"starting before 2 paths (")
        # Without it nothing starts, for all would have to come first.
        eager = far.run("eka-run", script, urls=(url,))
        assert (eager.status != 0, eager.out) == (True, b"")
    assert BIG not in blobs(far)
    assert origin.package not in far.listed()


def test_a_script_may_ask_for_it(origin: Origin, box: Path, far: Far) -> None:
    header = f'packages = ["{origin.world.busybox}", "{origin.package}"]\nlazy = true'
    script = origin.world.script(box, f"head -n 1 {origin.package}/small", header)
    with origin.served() as (url, _):
        with origin.without_big():
            done = far.run("eka-run", script, urls=(url,))
            assert (done.status, done.out) == (0, b"small and read\n"), done.err.decode()
            assert origin.package not in far.listed()
            # Nothing starts there, so nothing is promised.
            explained = far.run("eka", "explain", script, urls=(url,))
            assert explained.status != 0
        done = far.run("eka-run", script, urls=(url,), EKA_MODE="direct")
        assert b"everything is fetched before the start: " in done.err
    # All is here now: no server is needed, and no warning.
    done = far.run("eka-run", script, urls=(url,), EKA_MODE="direct")
    assert (done.status, done.out, done.err) == (0, b"small and read\n", b"")


def test_a_view_on_the_command_line_declines_what_a_script_asks_for(
    origin: Origin, box: Path, far: Far
) -> None:
    header = f'packages = ["{origin.world.busybox}", "{origin.package}"]\nlazy = true'
    script = origin.world.script(box, f"head -n 1 {origin.package}/small", header)
    with origin.served() as (url, _):
        both = far.run("eka-run", "--lazy", "--view", "bind", script, urls=(url,))
        assert (both.status, both.out) == (2, b""), both.err.decode()
        done = far.run("eka-run", "--view", "bind", script, urls=(url,))
        assert (done.status, done.out) == (0, b"small and read\n"), done.err.decode()
        assert b"starting before" not in done.err
    assert origin.package in far.listed()


def test_other_commands_start_lazily(origin: Origin, box: Path, far: Far) -> None:
    packages = [f"--package={origin.world.busybox}", f"--package={origin.package}"]
    file = origin.world.file(box / "input", f"head -n 1 {origin.package}/small")
    with origin.without_big(), origin.served() as (url, _):
        for words in (
            ["eka", "run", "--lazy", *packages, "sh"],
            ["eka", "shell", "--lazy", *packages],
        ):
            with file.open("rb") as stream:
                done = origin.world.run(*words, stdin=stream, env=far.environment(url))
            assert (done.status, done.out) == (0, b"small and read\n"), done.err.decode()
    assert origin.package not in far.listed()


def test_the_rest_comes_beside_the_program(origin: Origin, box: Path, far: Far) -> None:
    script = reading(origin, box, "echo ready; read line; cat DATA/big | wc -c")
    with origin.served() as (url, server):
        env = far.environment(url)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = origin.world.popen("eka-run", "-v", "--lazy", script, env=env, **pipes)
        assert process.stderr is not None
        lines = iter(process.stderr.readline, b"")
        assert any(line.startswith(b"complete: 2 paths") for line in lines)
        # All is here, so nobody is needed any more, neither now nor at the next start.
        server.kill()
        out, _ = process.communicate(b"\n", timeout=60)
        assert (process.returncode, out) == (0, b"ready\n%d\n" % BIG)
    assert sorted(far.listed()) == sorted([origin.world.busybox, origin.package])
    done = far.run("eka-run", "--lazy", script, urls=(url,), EKA_VIEW="bind")
    assert (done.status, done.err) == (0, b""), done.err.decode()
    assert os.listdir(Path(far.environ["EKA_STORE"]) / "tmp") == []


def test_a_service_that_goes_is_an_input_error(origin: Origin, box: Path, far: Far) -> None:
    script = reading(origin, box, "echo ready; read line; cat DATA/big > /dev/null")
    with origin.without_big(), origin.served() as (url, server):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        env = far.environment(url)
        process = origin.world.popen("eka-run", "--lazy", script, env=env, **pipes)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        server.kill()
        _, err = process.communicate(b"\n", timeout=60)
    assert process.returncode != 0
    assert b"Input/output error" in err
    assert b"eka: cannot show blob blake3-" in err
    assert origin.package not in far.listed()


def test_nothing_outlives_the_run(origin: Origin, box: Path, far: Far) -> None:
    script = reading(origin, box, "echo ready; sleep 1000")
    with origin.served() as (url, _):
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        env = far.environment(url)
        process = origin.world.popen("eka-run", "--lazy", script, env=env, **pipes)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
        # The process that fetches has stderr, too: this returns when all are gone.
        process.communicate(timeout=60)


def test_a_view_of_what_is_there_cannot_be_lazy(origin: Origin, box: Path, far: Far) -> None:
    script = reading(origin, box, "true")
    with origin.served() as (url, _):
        done = far.run("eka-run", "--lazy", "--view", "bind", script, urls=(url,))
        fails(done, 2, "`--view bind` shows only what is there")


def test_a_host_without_it_fetches_first(origin: Origin, box: Path, far: Far) -> None:
    script = reading(origin, box, "head -n 1 DATA/small")
    with origin.served() as (url, _):
        done = far.run("eka-run", "--lazy", script, urls=(url,), EKA_MODE="direct")
    assert (done.status, done.out) == (0, b"small and read\n"), done.err.decode()
    assert b"everything is fetched before the start: " in done.err
    assert origin.package in far.listed()


def test_a_lock_is_kept_before_the_start(origin: Origin, box: Path, far: Far) -> None:
    script = reading(origin, box, "head -n 1 DATA/small")
    origin.run("eka", "lock", script)
    with origin.served() as (url, _):
        done = far.run("eka-run", "--lazy", "--locked", script, urls=(url,))
    assert (done.status, done.out) == (0, b"small and read\n"), done.err.decode()
    assert done.err.startswith(b"fetching 2 paths")
    assert origin.package in far.listed()
