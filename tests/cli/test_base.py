"""A profile with a `[base]`: the tree of an image as the root file system of a run."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.cli.world import World
from tests.requirements import require
from tests.unit.oci.test_image_read import Member, directory, file, layout, link


def busybox_image(place: Path) -> Path:
    """A merged /usr with a busybox, and a few files that a distribution has."""
    busybox = Path(require("busybox")).read_bytes()
    out = io.BytesIO()
    members: list[Member] = [
        directory("usr"),
        link("bin", "usr/bin"),
        link("usr/bin/sh", "busybox"),
        link("usr/bin/cat", "/usr/bin/busybox"),
        link("usr/bin/ls", "busybox"),
        link("usr/bin/readlink", "busybox"),
        file("etc/image-version", "7\n"),
        file("etc/passwd", "of:the:image\n"),
        file("opt/tool/data", "data of the image\n"),
        file("tmp/old", "not to be seen\n"),
    ]
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            info.linkname = "" if kind == tarfile.REGTYPE else data.decode()
            tar.addfile(info, io.BytesIO(data))
        program = tarfile.TarInfo("usr/bin/busybox")
        program.size, program.mode = len(busybox), 0o755
        tar.addfile(program, io.BytesIO(busybox))
    return layout(place, [out.getvalue()])


@pytest.fixture
def profile(world: World, box: Path) -> Path:
    """One of the user's own, over an image that was added to the store."""
    image = busybox_image(box / "image")
    subprocess.run(["chown", "-R", str(world.user.uid), image], check=True)
    added = world.run("eka", "store", "add-image", image, "--name", "base-7", cwd=box)
    assert added.status == 0, added.err.decode()
    head = 'description = "over an image"\nextends = "run"\n'
    text = f'{head}[base]\npath = "{added.out.decode().strip()}"\n'
    return world.file(box / "mine.toml", text)


def test_a_run_sees_the_image_and_what_it_asked_for(world: World, box: Path, profile: Path) -> None:
    body = "cat /etc/image-version /opt/tool/data; test -e /tmp/old; echo $?"
    body += '; readlink /bin/sh; cat /etc/passwd; greet "$1"'
    script = world.script(box, body, f'packages = ["{world.greet}"]')
    for _ in ("cold", "warm"):
        done = world.run("eka-run", "--profile", profile, script, "you")
        lines = done.out.decode().splitlines()
        assert lines[:2] == ["7", "data of the image"], done.err.decode()
        assert lines[2] == "1", "the image's /tmp is shown"
        assert lines[3].endswith("-base-7/bin/sh")
        assert lines[4].startswith(f"{world.user.name}:x:")
        assert lines[-1] == f"Hello, you! I live in {world.greet}/bin/greet"
    explained = world.run("eka-run", "--profile", profile, "--explain", script)
    assert b"profile " in explained.out
    assert b"-base-7" in explained.out


def test_another_base_is_noticed_at_once(world: World, box: Path, profile: Path) -> None:
    script = world.script(box, "cat /etc/image-version 2>/dev/null || echo none")
    assert world.run("eka-run", "--profile", profile, script).out == b"7\n"
    changed = profile.read_text().split("[base]")[0]
    fresh = world.file(box / "fresh.toml", changed)
    os.replace(fresh, profile)
    assert world.run("eka-run", "--profile", profile, script).out == b"none\n"


def test_a_base_that_is_nowhere_is_said(world: World, box: Path, profile: Path) -> None:
    text = profile.read_text().replace("/nix/store/", "/nix/store/" + "0" * 3, 1)
    broken = world.file(box / "broken.toml", text)
    script = world.script(box, "true")
    refused = world.run("eka-run", "--profile", broken, script)
    assert refused.status == 40
    assert b"base.path" in refused.err
