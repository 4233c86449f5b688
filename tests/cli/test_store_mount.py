"""`eka store mount` as typed, by every kind of user: for everybody, and for one command."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.world import World
from tests.requirements import require
from tests.views import need_fuse


@pytest.fixture(autouse=True)
def _fuse() -> None:
    need_fuse()


@pytest.fixture
def place(world: World, box: Path) -> Path:
    return world.directory(f"{box.name}/mnt")


def is_mounted(place: Path) -> bool:
    mounts = Path("/proc/self/mountinfo").read_text()
    return any(line.split()[4] == os.fspath(place) for line in mounts.splitlines())


@contextmanager
def mounted(
    world: World, place: Path, how: int = signal.SIGINT, **more: Any
) -> Iterator[list[str]]:
    """Yields what the command has said on stderr, once it has ended well."""
    said: list[str] = []
    more |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    process = world.popen(world.bin / "eka", "store", "mount", place, **more)
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        assert first == os.fsencode(place) + b"\n", process.communicate()[1].decode()
        yield said
    finally:
        process.send_signal(how)
        rest, errors = process.communicate(timeout=60)
    said += errors.decode().splitlines()
    assert process.returncode == (0 if how != signal.SIGKILL else -signal.SIGKILL)
    assert rest == b""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_everybody_sees_it_until_a_signal(world: World, place: Path, how: int) -> None:
    require("fusermount3")
    name = os.path.basename(world.greet)
    with mounted(world, place, how=how) as said:
        assert is_mounted(place)
        assert name in world.run("ls", place).out.decode().split()
        assert world.run("cat", place / name / "bin" / "greet").out.startswith(b"#!")
        added = world.run("eka", "store", "add", world.file(place.parent / "new", "just now"))
        later = place / os.path.basename(added.out.decode().strip())
        assert world.run("cat", later).out == b"just now"
        assert later.name in world.run("ls", place).out.decode().split()
    assert not is_mounted(place)
    assert said == []


def test_a_mount_that_stays_is_told(world: World, box: Path) -> None:
    """As where there is no /etc/mtab, which fusermount3 asks when it unmounts."""
    if world.user.label == "root":
        return  # It asks nobody.
    place, real = world.directory(f"{box.name}/a mount"), require("fusermount3")
    helper = world.file(
        world.directory(f"{box.name}/bin") / "fusermount3",
        f'#!/bin/sh\n[ "$1" != -u ] || exit 1\nexec {real} "$@"\n',
    )
    helper.chmod(0o755)
    path = f"{helper.parent}:{os.environ['PATH']}"
    process = world.popen(
        world.bin / "eka",
        "store",
        "mount",
        place,
        env={"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == os.fsencode(place) + b"\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 50
        assert f"cannot unmount `{place}`" in errors.decode()
    finally:
        world.run(real, "-u", "-z", place)
    assert not os.path.ismount(place)


def test_it_may_be_unmounted_by_others(world: World, place: Path) -> None:
    helper = require("fusermount3")
    process = world.popen("eka", "store", "mount", place, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert world.run(helper, "-u", place).status == 0
    assert process.wait(60) == 0
    process.stdout.close()
    assert not is_mounted(place)


def test_one_that_is_killed_leaves_no_mount(world: World, place: Path) -> None:
    require("fusermount3")
    with mounted(world, place, how=signal.SIGKILL):
        world.run("ls", place)
    # The process that unmounts sees the end of the other one some time later.
    with open("/proc/self/mountinfo", "rb", buffering=0) as mounts:
        changes = select.poll()
        changes.register(mounts, select.POLLPRI)
        while is_mounted(place):
            assert changes.poll(60_000)


def test_without_a_helper_root_mounts_himself(world: World, place: Path) -> None:
    env = {"PATH": os.fspath(world.bin)}
    if world.user.uid == 0:
        with mounted(world, place, env=env):
            assert is_mounted(place)
            assert os.path.basename(world.greet) in os.listdir(place)
        assert not is_mounted(place)
        return
    done = world.run(world.bin / "eka", "store", "mount", place, env=env)
    assert done.status == 50
    assert b"fusermount3, which is not installed" in done.err
    assert f"eka store mount {place} -- COMMAND".encode() in done.err


def test_one_command_sees_it(world: World, place: Path) -> None:
    code = 'cat "$1"/*-greet-*/bin/greet | head -c 2; id -u; ls -ld "$1"; exit 5'
    done = world.run("eka", "store", "mount", place, "--", "sh", "-c", code, "sh", place)
    assert (done.status, done.err) == (5, b"")
    lines = done.out.decode().splitlines()
    assert lines[0] == f"#!{world.user.uid}"
    assert lines[1].startswith("dr-xr-xr-x")
    assert world.user.name in lines[1]
    assert not is_mounted(place)


def test_the_server_ends_with_the_command(world: World, place: Path) -> None:
    # Whoever has stderr open keeps this from returning: so nobody has.
    code = 'cat "$1"/*-greet-*/bin/greet > /dev/null; kill -9 $$'
    done = world.run(
        "eka", "store", "mount", place, "--", "sh", "-c", code, "sh", place, timeout=60
    )
    assert done.status == -signal.SIGKILL


def test_a_command_without_privileges(world: World, place: Path) -> None:
    code = "grep -h CapEff /proc/self/status"
    done = world.run("eka", "store", "mount", place, "--", "sh", "-c", code)
    if world.user.uid != 0:
        assert done.out.split() == [b"CapEff:", b"0000000000000000"]


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["nowhere"], 2, b"mkdir -p nowhere"),
        (["{place}", "--", "/nonexistent/program"], 127, b"there is no program"),
        (["{place}", "--", "{place}"], 126, b"cannot start"),
        (["{place}", "--from", "nowhere:", "--", "true"], 2, b"nowhere:"),
    ],
)
def test_refusals(world: World, place: Path, words: list[str], status: int, text: bytes) -> None:
    done = world.run("eka", "store", "mount", *(word.format(place=place) for word in words))
    assert (done.status, text in done.err) == (status, True), done.err.decode()
    assert not is_mounted(place)


def test_no_store(world: World, place: Path) -> None:
    done = world.run("eka", "store", "--store", place / "none", "mount", place)
    assert done.status == 22
    assert b"there is no store" in done.err
