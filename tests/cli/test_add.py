"""`eka add --script` and `eka remove --script`: scripts that run with what was added."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.world import Done, World


def add(world: World, script: Path, *packages: str, **more: Path) -> Done:
    done = world.run("eka", "add", "--script", script, *packages, **more)
    assert done.status == 0, done.err.decode()
    return done


def test_a_script_gets_a_package(world: World, box: Path) -> None:
    script = world.script(box, "greet you")
    assert world.run(script).status == 127
    inode = script.stat().st_ino
    assert add(world, script, world.greet)[1:] == (b"", b"")
    assert world.run(script).out.startswith(b"Hello, you!")
    status = script.stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o755, world.user.uid)
    assert status.st_ino != inode
    assert b"states that already" in add(world, script, world.greet).err
    assert sorted(os.listdir(box)) == ["script"]


def test_a_script_gets_a_header(world: World, box: Path) -> None:
    script = world.file(box / "script", "#!/usr/bin/env eka-run\ngreet you\n", 0o755)
    add(world, script, world.greet)
    assert world.run(script).out.startswith(b"Hello, you!")


def test_links_are_written_as_the_script_finds_them(world: World, box: Path) -> None:
    (box / "result").symlink_to(world.greet)
    (box / "bin").mkdir()
    os.chown(box / "bin", world.user.uid, world.user.gid)
    script = world.script(box / "bin", "greet you")
    add(world, script, "./result", cwd=box)
    assert b'"../result"' in script.read_bytes()
    assert world.run(script).out.startswith(b"Hello, you!")
    done = world.run("eka", "remove", "--script", script, "../result")
    assert done.status == 0, done.err.decode()
    assert world.run(script).status == 127


def test_a_link_to_a_script_stays_one(world: World, box: Path) -> None:
    script = world.script(box, "greet you")
    (box / "link").symlink_to("script")
    add(world, box / "link", world.greet)
    assert (box / "link").is_symlink()
    assert world.greet.encode() in script.read_bytes()


def test_people_are_told_what_follows(world: World, box: Path) -> None:
    script = world.script(box, "true")
    assert world.run("eka", "lock", script).status == 0
    assert f"`eka lock {script}` renews".encode() in add(world, script, world.greet).err
    scanned = world.file(box / "scanned", f"#!{world.busybox}/bin/sh\n", 0o755)
    assert b"are not looked for" in add(world, scanned, world.greet).err


@pytest.mark.parametrize("verb", ["add", "remove"])
def test_packages_are_no_atoms(world: World, verb: str) -> None:
    done = world.run("eka", verb, world.greet)
    assert done.status == 2
    assert f"`eka {verb} --script FILE P`".encode() in done.err


def test_what_is_no_package_is_refused(world: World, box: Path) -> None:
    script = world.script(box, "true")
    before = script.read_bytes()
    for name in ("nothing", "/nix/store/short"):
        done = world.run("eka", "add", "--script", script, name)
        assert done.status in (2, 21), done.err.decode()
    assert script.read_bytes() == before


def test_what_is_no_script_is_refused(world: World, box: Path) -> None:
    os.mkfifo(box / "pipe")
    for name in ("none", "pipe", "."):
        done = world.run("eka", "add", "--script", box / name, world.greet)
        assert done.status == 2, done.err.decode()
