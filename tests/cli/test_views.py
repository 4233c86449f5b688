"""One store, three ways to show it: the same bytes and attributes, for every runtime and user.

What the bind view shows is hard links and copies, so it is what the others are compared with.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.world import World
from tests.requirements import require

# As `find -printf`, which busybox lacks: name, kind, mode, size of what is no directory, mtime, and
# where links lead; then all contents.
LISTING = """\
find /nix/store -mindepth 1 | sort | while IFS= read -r path; do
    size=$([ -d "$path" ] && [ ! -L "$path" ] || stat -c %s "$path")
    echo "$path $(stat -c '%F %a %Y' "$path") $size $(readlink "$path")"
    if [ -f "$path" ]; then sha256sum < "$path"; fi
done
"""
VIEWS = ("bind", "overlay", "fuse")


@pytest.fixture(scope="session")
def tree(world: World) -> str:
    """A path with large and small files of both modes, links, odd names and empty things."""
    source = world.directory("tree")
    for name, contents, mode in (
        ("small", b"small", 0o644),
        ("tool", b"#!/bin/sh\necho tool\n", 0o755),
        ("same-but-executable", b"small", 0o755),
        ("large", bytes(range(256)) * 2048, 0o644),
        ("large-tool", bytes(range(256)) * 2048, 0o755),
        ("empty", b"", 0o644),
        ("-odd name\u00e9", b"odd", 0o644),
    ):
        world.file(source / name, contents, mode)
    (source / "empty-directory").mkdir()
    (source / "link").symlink_to("small")
    (source / "dangling").symlink_to("/nowhere")
    for place in source.rglob("*"):
        os.chown(place, world.user.uid, world.user.gid, follow_symlinks=False)
    done = world.run("eka", "store", "add", source)
    assert done.status == 0, done.err.decode()
    return done.out.decode().strip()


def _show(world: World, tree: str, view: str, script: str, runtime: str = "crun") -> bytes:
    packages = [word for path in (world.greet, world.busybox, tree) for word in ("-p", path)]
    words = ["eka", "run", "--view", view, *packages, "sh", "-c", script]
    done = world.run(*words, env={"EKA_RUNTIME": runtime})
    assert done.status == 0, done.err.decode()
    return done.out


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_all_views_show_the_same(world: World, tree: str, runtime: str) -> None:
    require(runtime)
    expected = _show(world, tree, "bind", LISTING, runtime)
    assert expected.count(b"\n") > 20
    assert b" 444 1 " in expected
    assert b" 555 1 " in expected
    for view in VIEWS[1:]:
        assert _show(world, tree, view, LISTING, runtime) == expected


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_can_be_written_through_a_view(world: World, tree: str, view: str) -> None:
    attempts = f"""\
for try in "echo x >> {tree}/large" "echo x >> {tree}/small" "rm {tree}/small" \
    "touch {tree}/new" "chmod u+w {tree}/large" "mv {tree}/large {tree}/moved" \
    "ln {tree}/large {tree}/linked" "truncate -s 0 {tree}/large-tool" "touch /nix/store/new"; do
    if sh -c "$try" 2>/dev/null; then echo "done: $try"; fi
done
"""
    assert _show(world, tree, view, attempts) == b""


@pytest.mark.parametrize("view", VIEWS)
def test_programs_run_from_a_view(world: World, tree: str, view: str) -> None:
    script = f"{tree}/tool; cmp {tree}/large {tree}/large-tool && greet"
    assert _show(world, tree, view, script).startswith(b"tool\n")


def test_a_closure_of_many_paths_is_shown_by_one_mount(world: World, box: Path) -> None:
    paths = []
    for number in range(70):
        done = world.run("eka", "store", "add", world.file(box / f"p{number}", f"{number}"))
        paths.append(done.out.decode().strip())
    packages = [word for path in (world.busybox, *paths) for word in ("-p", path)]
    count = "grep -c ' /nix/store' /proc/mounts; ls /nix/store | wc -l; cat /nix/store/*-p69"
    done = world.run("eka", "run", *packages, "sh", "-c", count)
    assert (done.status, done.out.split()) == (0, [b"1", b"71", b"69"]), done.err.decode()
    done = world.run("eka", "run", "--view", "bind", *packages, "sh", "-c", count)
    assert (done.status, done.out.split()) == (0, [b"71", b"71", b"69"]), done.err.decode()


def test_a_warm_start_takes_the_view_that_is_asked_for(world: World, tree: str, box: Path) -> None:
    script = world.script(box, "grep -c ' /nix/store fuse' /proc/mounts; true")
    for view, count in (("bind", b"0\n"), ("fuse", b"1\n"), ("bind", b"0\n"), ("fuse", b"1\n")):
        done = world.run("eka-run", "--view", view, script)
        assert (done.status, done.out) == (0, count), done.err.decode()


def test_views_go_with_their_paths(world: World, box: Path) -> None:
    own = {"EKA_STORE": str(box / "store")}

    def eka(*words: str | Path) -> bytes:
        done = world.run("eka", *words, env=own)
        assert done.status == 0, done.err.decode()
        return done.out

    eka("store", "copy", "--from", world.place / "store", world.busybox)
    path = eka("store", "add", world.file(box / "f", b"x" * 70_000)).decode().strip()
    for view in VIEWS:
        packages = ("-p", world.busybox, "-p", path)
        out = eka("run", "--view", view, *packages, "sh", "-c", f"wc -c < {path}")
        assert out == b"70000\n"
    name = path.rpartition("/")[2]
    assert len(list((box / "store" / "view").rglob(name))) == 2
    eka("store", "root", "add", world.busybox)
    eka("store", "gc")
    assert list((box / "store" / "view").rglob(name)) == []
    assert os.listdir(box / "store" / "view" / "overlay") == []
    assert os.listdir(box / "store" / "view" / "fuse") == []


def test_an_unknown_view_is_refused(world: World) -> None:
    done = world.run("eka-run", "--view", "hologram", "x")
    assert done.status == 2
    assert b"`auto`" in done.err
