"""Locks of scripts: written, used, checked, and refused when they do not fit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_far_store import bucket, far, libraries
from tests.cli.test_warm import TELLING, is_cold
from tests.cli.world import Done, World
from tests.requirements import require

__all__ = ["bucket", "far", "libraries"]  # fixtures

NOWHERE = f"/nix/store/{'0' * 32}-nowhere"
ZEROS = f"sha256-{'A' * 43}="


def lock(world: World, script: Path, *words: str, status: int = 0) -> Done:
    done = world.run("eka", "lock", *words, script, cwd=script.parent)
    assert done.status == status, done.err.decode()
    return done


def place(script: Path) -> Path:
    return script.with_name(f"{script.name}.lock")


def edit(script: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(place(script).read_bytes())
    change(data)
    place(script).write_text(json.dumps(data))


def link(at: Path, target: str) -> None:
    at.unlink(missing_ok=True)
    at.symlink_to(target)


@pytest.fixture
def script(world: World, box: Path) -> Path:
    """Its only package is a link, which leads to greet; its lock is written."""
    link(box / "result", world.greet)
    script = world.script(box, 'greet "$1"', 'packages = ["./result"]')
    lock(world, script)
    return script


def refused(done: Done, *texts: str, status: int = 12) -> None:
    assert (done.status, done.out) == (status, b""), done.err.decode()
    for text in ("error: ", "hint: ", *texts):
        assert text in done.err.decode()


def test_a_lock_says_what_the_packages_are(world: World, script: Path) -> None:
    text = place(script).read_text()
    data = json.loads(text)
    assert data["packages"] == [{"stated": "./result", "path": world.greet}]
    assert "interpreter" not in data
    closure = world.run("eka", "store", "closure", world.greet).out.decode().split()
    assert [entry["path"] for entry in data["closure"]] == sorted(closure)
    info = json.loads(world.run("eka", "store", "info", "--json", world.greet).out)
    (entry,) = (entry for entry in data["closure"] if entry["path"] == world.greet)
    assert (entry["narHash"], entry["narSize"]) == (info["narHash"], info["narSize"])
    assert str(script.parent) not in text
    assert place(script).stat().st_mode & 0o133 == 0


def test_a_current_lock_is_left_alone(world: World, script: Path) -> None:
    before = place(script).stat()
    done = lock(world, script)
    assert done.out.decode() == f"{os.path.realpath(place(script))}\n"
    assert place(script).stat().st_mtime_ns == before.st_mtime_ns
    assert lock(world, script, "--check").out == done.out
    shown = json.loads(lock(world, script, "--json").out)
    assert shown == {"lock": done.out.decode().strip(), "packages": [world.greet], "paths": 3}


@pytest.mark.parametrize("flags", [[], ["--locked"]])
def test_a_moved_link_does_not_change_the_run(world: World, script: Path, flags: list[str]) -> None:
    link(script.parent / "result", NOWHERE)
    for _ in range(2):
        done = world.run("eka-run", *flags, script, "you")
        assert done.out.startswith(b"Hello, you!"), done.err.decode()
        assert done.err == b""
    done = lock(world, script, "--check", status=20)
    link(script.parent / "result", world.busybox)
    done = lock(world, script, "--check", status=12)
    assert f"the package `./result` is `{world.busybox}`, not `{world.greet}`" in done.err.decode()
    lock(world, script)
    assert world.run("eka-run", script, "you").status == 127


def test_a_locked_run_is_warm_until_the_lock_changes(world: World, script: Path) -> None:
    # A start so soon after the lock was written leaves no record, then the next one does.
    runs = [world.run("eka-run", "--locked", script, env=TELLING) for _ in range(3)]
    assert [is_cold(done) for done in (runs[0], runs[-1])] == [True, False]
    place(script).unlink()
    refused(world.run("eka-run", "--locked", script), "is missing", "`eka lock ")
    assert world.run("eka-run", script).status == 0


def test_a_new_lock_is_noticed(world: World, box: Path) -> None:
    link(box / "result", world.greet)
    script = world.script(box, "greet x", 'packages = ["./result"]')
    assert [world.run(script).status for _ in range(2)] == [0, 0]
    lock(world, script)
    done = world.run(script, env=TELLING)
    assert (done.status, is_cold(done)) == (0, True)


def test_a_header_may_insist_on_its_lock(world: World, box: Path) -> None:
    script = world.script(box, "echo ran", "locked = true")
    refused(world.run(script), "script.lock` is missing", f"`eka lock {script}`")
    lock(world, script)
    assert world.run(script).out == b"ran\n"
    flags = f"#!/usr/bin/env eka-run\n#!eka-run --locked -p {world.busybox}\necho ran\n"
    other = world.file(box / "other", flags, 0o755)
    refused(world.run(other), "other.lock` is missing")


def test_a_stale_lock_warns_every_time(world: World, script: Path) -> None:
    world.script(script.parent, "greet x; echo two", f'packages = ["./result", "{world.busybox}"]')
    reason = f"is stale: the package `{world.busybox}` is new"
    for _ in range(2):
        done = world.run(script)
        assert done.out.endswith(b"two\n")
        assert reason in done.err.decode()
        assert f"renew it with `eka lock {script}`" in done.err.decode()
    refused(world.run("eka-run", "--locked", script), reason, f"`eka lock {script}`")
    done = lock(world, script, "--check", status=12)
    assert reason in done.err.decode()
    lock(world, script)
    assert world.run("eka-run", "--locked", script).err == b""


def test_flags_count_as_statements(world: World, script: Path) -> None:
    words = ("eka-run", "--locked", "-p", world.busybox, script)
    refused(world.run(*words), "is stale", f"`eka lock -p {world.busybox} {script}`")
    refused(world.run("eka-run", "--locked", "-i", "ash", script), "the interpreter is `ash`")
    lock(world, script, "-p", world.busybox, "-i", "ash")
    assert world.run("eka-run", "-i", "ash", *words[1:], "you").out.startswith(b"Hello, you!")
    refused(world.run("eka-run", "--locked", script), "is stale")


def test_relative_flags_count_from_the_script(world: World, script: Path, box: Path) -> None:
    (box / "below").mkdir()
    lock(world, script, "-p", "./result")
    inside = world.run("eka-run", "--locked", "-p", "./result", script, cwd=box)
    assert inside.status == 0, inside.err.decode()
    below = world.run("eka-run", "--locked", "-p", "../result", script, cwd=box / "below")
    refused(below, "the package `result` is new")


def test_a_link_to_a_script_has_the_same_lock(world: World, script: Path, box: Path) -> None:
    (box / "bin").mkdir()
    link(box / "bin" / "tool", "../script")
    assert world.run("eka-run", "--locked", box / "bin" / "tool").status == 0
    assert world.run("eka", "lock", box / "bin" / "tool").out.endswith(b"/script.lock\n")


def test_another_nar_hash_in_the_store_is_refused(world: World, script: Path) -> None:
    edit(script, lambda data: data["closure"][0].update(narHash=ZEROS))
    text = f"in `{os.path.realpath(place(script))}` it has {ZEROS}"
    refused(world.run("eka-run", "--locked", script), text, "find out which", status=26)
    for _ in range(2):
        done = world.run("eka-run", script, "you")
        assert done.out.startswith(b"Hello, you!")
        assert text in done.err.decode()
        assert done.err.startswith(b"warning: ")


def test_another_closure_in_the_store_is_refused(world: World, script: Path) -> None:
    entry = {"path": NOWHERE, "narHash": ZEROS, "narSize": 1}
    edit(script, lambda data: data["closure"].append(entry))
    refused(world.run("eka-run", "--locked", script), f"has `{NOWHERE}`, which nothing in the")


@pytest.mark.parametrize("text", ["", "{}", "<<<<<<< HEAD\n", '{"format": "eka script lock 9"}'])
def test_what_is_no_lock(world: World, script: Path, text: str) -> None:
    ours = "eka script" in text
    place(script).write_text(text)
    refused(world.run("eka-run", "--locked", script), "script.lock`")
    done = world.run("eka-run", script, "you")
    assert done.out.startswith(b"Hello, you!")
    assert (done.err.startswith(b"warning: ")) is ours
    written = lock(world, script, status=0 if ours or not text else 12)
    assert ours or not text or b"is not a lock that eka wrote" in written.err


def test_a_scanned_file_is_locked_by_its_mentions(world: World, box: Path) -> None:
    text = f"#!{world.busybox}/bin/sh\n{world.greet}/bin/greet scan\n"
    script = world.file(box / "script", text, 0o755)
    lock(world, script)
    data = json.loads(place(script).read_bytes())
    assert data["mentioned"] == [world.busybox, world.greet]
    done = world.run("eka-run", "--locked", script)
    assert done.out.startswith(b"Hello, scan!"), done.err.decode()
    world.file(script, f"{text}# {NOWHERE}\n", 0o755)
    refused(world.run("eka-run", "--locked", script), f"the mention of `{NOWHERE}` is new")
    world.file(script, f"#!{world.busybox}/bin/sh\n", 0o755)
    refused(world.run("eka-run", "--locked", script), f"`{world.greet}` is not mentioned any more")


def test_a_binary_is_locked_by_its_mentions(world: World, box: Path) -> None:
    # What a binary mentions and the store lacks is not needed, and so not in the lock either.
    text = Path(require("busybox")).read_bytes() + f"{world.greet}\0{NOWHERE}\0".encode()
    binary = world.file(box / "busybox", text, 0o755)
    lock(world, binary)
    assert json.loads(place(binary).read_bytes())["mentioned"] == [world.greet]
    done = world.run("eka-run", "--locked", binary, "echo", "ran")
    assert (done.status, done.out) == (0, b"ran\n"), done.err.decode()


def test_a_lock_is_a_root(world: World, script: Path, box: Path) -> None:
    own = {"EKA_STORE": os.fspath(box / "store")}
    stream = world.run("eka", "store", "export", "--closure", world.greet).out
    world.file(box / "stream", stream)
    assert world.run("eka", "store", "import", box / "stream", env=own).status == 0
    for command in (("eka", "lock", script), ("eka-run", script)):
        assert world.run(*command, env=own).status == 0
        assert str(os.path.realpath(place(script))) in roots(world, own)
        (name,) = (line.split()[0] for line in roots(world, own).splitlines() if "file/" in line)
        assert world.run("eka", "store", "root", "remove", name, env=own).status == 0
    assert world.run("eka", "lock", script, env=own).status == 0
    assert world.run("eka", "store", "gc", env=own).out == b"0\n"
    place(script).unlink()
    assert world.run("eka", "store", "gc", env=own).out != b"0\n"


def roots(world: World, env: dict[str, str]) -> str:
    return world.run("eka", "store", "root", "list", env=env).out.decode()


def test_a_fresh_machine_needs_script_and_lock(
    world: World, script: Path, box: Path, far: Any, bucket: str
) -> None:
    copy = world.directory(f"{box.name}-copy")
    for file in (script, place(script)):
        world.file(copy / file.name, file.read_bytes(), 0o755)
    done = far.run("eka-run", "--locked", copy / "script", "you", urls=(bucket,))
    assert done.out.startswith(b"Hello, you!"), done.err.decode()
    assert done.err.startswith(b"fetching 3 paths (")
    again = far.run("eka-run", "--locked", copy / "script", "you", urls=(bucket,))
    assert (again.out, again.err) == (done.out, b"")


def change_hash(data: Any) -> None:
    data["closure"][0].update(narHash=ZEROS)


def drop_a_path(data: Any) -> None:
    roots = [package["path"] for package in data["packages"]]
    data["closure"] = [entry for entry in data["closure"] if entry["path"] in roots]


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [(change_hash, 26, "has the NAR hash"), (drop_a_path, 12, "in the closure, which")],
)
def test_nothing_else_is_fetched(
    world: World,
    script: Path,
    far: Any,
    bucket: str,
    change: Callable[[Any], object],
    status: int,
    text: str,
) -> None:
    edit(script, change)
    for words in (("eka-run",), ("eka-run", "--locked")):
        done = far.run(*words, script, urls=(bucket,))
        refused(done, bucket, text, "find out which" if status == 26 else "renew it", status=status)
        assert far.listed() == []
