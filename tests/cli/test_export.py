"""`eka export`, as typed, by every kind of user; started by podman, crun and runc without eka."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from eka_runtime.linux.userns import subordinate_ids
from tests.cli.world import World
from tests.installed import REPOSITORY
from tests.podman import Podman, podman_of
from tests.registry import registry
from tests.requirements import lacking, require

EXAMPLES = REPOSITORY / "examples"
LANDS = b"I live in"


@pytest.fixture(scope="session")
def podman(world: World) -> Iterator[Podman]:
    with podman_of(world.user) as made:
        yield made


def export(world: World, box: Path, *words: str | Path) -> str:
    done = world.run("eka", "export", *words, cwd=box)
    assert done.status == 0, done.err.decode()
    return done.out.decode().strip()


def digest(world: World, box: Path, *words: str | Path) -> str:
    done = world.run("eka", "export", "--json", *words, cwd=box)
    assert done.status == 0, done.err.decode()
    return str(json.loads(done.out)["digest"])


def test_an_archive_runs_in_podman_as_eka_runs_the_path(
    world: World, box: Path, podman: Podman
) -> None:
    archive = export(world, box, world.greet, "-o", "greet.tar")
    assert archive == str(box / "greet.tar")
    started = podman.start(f"oci-archive:{archive}", "you")
    ran = world.run("eka", "run", world.greet, "you")
    assert started.stdout == ran.out, started.stderr.decode()
    assert LANDS in ran.out


def test_a_script_brings_its_text_its_variables_and_its_status(
    world: World, box: Path, podman: Podman
) -> None:
    header = 'env = ["WORD=hello"]\nread = ["data"]'
    body = 'echo "$WORD $1"; cat /etc/os-release | head -n 1; cat; exit 42'
    script = world.script(box, body, header)
    done = world.run("eka", "export", script, "--format", "docker-archive", "-o", "-", cwd=box)
    assert done.status == 0, done.err.decode()
    assert f"-v {box}/data:{box}/data:ro" in done.err.decode()
    loaded = podman("load", stdin=None, input=done.out)
    assert b"localhost/script:latest" in loaded.stdout, loaded.stderr.decode()
    ran = podman.start("-i", "localhost/script", "you", stdin=None, input=b"from stdin\n")
    assert ran.stdout == b"hello you\nID=eka\nfrom stdin\n", ran.stderr.decode()
    assert ran.returncode == 42
    labels = json.loads(podman("image", "inspect", "localhost/script").stdout)[0]["Labels"]
    assert labels["dev.eka.read"] == "data"
    assert labels["dev.eka.network"] == "off"


def test_an_atom_is_built_and_runs_in_podman(world: World, box: Path, podman: Podman) -> None:
    place = Path(shutil.copytree(EXAMPLES / "atoms", box / "atoms"))
    for directory, _, files in os.walk(place):
        for name in (directory, *(os.path.join(directory, file) for file in files)):
            os.chown(name, world.user.uid, world.user.gid)
    words = ("--variant", "loud", "--set", "times=2", "./variants")
    archive = export(world, place, *words, "--tag", "a/loud:1", "-o", "loud.tar")
    started = podman.start(f"oci-archive:{archive}")
    assert started.stdout == b"HELLO world!\n" * 2, started.stderr.decode()
    ran = world.run("eka", "run", *words, cwd=place)
    assert started.stdout == ran.out, ran.err.decode()
    shown = world.run("eka", "config", "show", "--json", *words, cwd=place)
    labels = json.loads(podman("image", "inspect", "localhost/a/loud:1").stdout)[0]["Labels"]
    assert labels["dev.eka.atom.label"] == "variants"
    assert labels["dev.eka.config"] in shown.out.decode()
    assert labels["dev.eka.artifact"] in shown.out.decode()


def test_a_user_a_label_and_a_name_are_given(world: World, box: Path, podman: Podman) -> None:
    name = "registry.example:5000/a/b:c"
    words = ("--user", "1234:5678", "--label", "team=infra", "--tag", name)
    export(world, box, world.busybox, "--format=oci-dir", "-o", "layout", *words)
    packed = world.run("tar", "-C", "layout", "-c", ".", cwd=box)
    loaded = podman("load", stdin=None, input=packed.out)
    assert name.encode() in loaded.stdout, loaded.stderr.decode()
    config = json.loads(podman("image", "inspect", name).stdout)[0]
    assert (config["User"], config["Labels"]["team"]) == ("1234:5678", "infra")
    # Without subordinate ids a container has one user.
    if world.user.uid == 0 or subordinate_ids(Path("/etc/subuid"), world.user.uid):
        ran = podman.start(name, "id")
        assert b"uid=1234(user) gid=5678(user)" in ran.stdout, ran.stderr.decode()


def test_a_root_file_system_runs_and_shares_nothing_with_the_store(
    world: World, box: Path, podman: Podman
) -> None:
    place = Path(export(world, box, world.greet, "--format", "rootfs", "-o", "root"))
    ran = podman.start("--rootfs", place, f"{world.greet}/bin/greet", "you")
    assert ran.stdout == world.run("eka", "run", world.greet, "you").out, ran.stderr.decode()
    busybox = place / world.busybox[1:] / "bin" / "busybox"
    assert (busybox.stat().st_nlink, busybox.stat().st_mode & 0o7777) == (1, 0o555)
    assert (place / "bin" / "sh").stat().st_nlink == 1


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_bundle_has_everything_in_it(world: World, box: Path, runtime: str) -> None:
    script = world.script(box, 'echo "$1 $(id -u) $0"')
    place = Path(export(world, box, script, "word", "--format", "bundle", "-o", "bundle"))
    script.unlink()
    config = json.loads((place / "config.json").read_bytes())
    binds = [mount["source"] for mount in config["mounts"] if mount["type"] == "bind"]
    assert all(source.startswith("/sys/") for source in binds)
    state = box / "state"
    command = [require(runtime), "--root", str(state), "run", "-b", str(place), "eka-test-export"]
    ran = world.run(*command)
    if b"hybrid mode" in ran.err:
        # A host with both versions of control groups, which runc works on.
        assert runtime == "crun"
        return
    assert ran.out == b"word 0 /app/script\n", ran.err.decode()


def test_what_has_no_program_gets_a_shell(world: World, box: Path) -> None:
    """A raw closure: a text file, here."""
    for form in ("bundle", "single-file", "rootfs"):
        export(world, box, world.other, "--format", form, "-o", form)
    config = json.loads((box / "bundle" / "config.json").read_bytes())
    assert config["process"]["args"] == ["/bin/sh"]
    reading = f"read line < {world.other}; echo $line"
    started = world.run(box / "single-file", "/bin/sh", "-c", reading, cwd=box)
    if started.status and b"cgroup" in started.err:
        lacking(started.err.decode())
    assert started.out == b"not part of any closure\n", started.err.decode()


def test_the_same_everywhere(world: World, box: Path, tmp_path: Path) -> None:
    """Another store of this user's, another directory, another way to write: the same image."""
    script = world.script(box, "echo hello")
    (box / "elsewhere").mkdir()
    shutil.copy(script, box / "elsewhere" / "script")
    os.chown(box / "elsewhere", world.user.uid, world.user.gid)
    first = digest(world, box, script, "-o", "a.tar")
    stream = box / "closure"
    with stream.open("wb") as out:
        words = ("eka", "store", "export", "--closure", world.busybox)
        exporting = world.popen(*words, stdout=out)
        assert exporting.wait() == 0
    env = {"EKA_STORE": str(box / "store")}
    with stream.open("rb") as source:
        assert world.run("eka", "store", "import", stdin=source, env=env).status == 0
    into = ("--format", "oci-dir", "-o", "b", "--json")
    again = world.run("eka", "export", "elsewhere/script", *into, cwd=box, env=env)
    assert json.loads(again.out)["digest"] == first, again.err.decode()
    assert _DIGESTS.setdefault("script", first) == first, "other users get other digests"
    verified = world.run("eka", "store", "verify", "--deep", env=env)
    assert verified.status == 0, verified.out.decode()


_DIGESTS: dict[str, str] = {}


def test_what_is_pushed_can_be_pulled(world: World, box: Path, podman: Podman) -> None:
    with registry() as made:
        name = f"{made.host}/some/greet:1"
        export(world, box, world.greet, "--push", "--tag", name)
        ran = podman.start("--tls-verify=false", name, "you")
    assert ran.stdout == world.run("eka", "run", world.greet, "you").out, ran.stderr.decode()


def test_others_read_it(world: World, box: Path) -> None:
    """skopeo and umoci have their own ideas of what is a valid image."""
    skopeo, umoci = require("skopeo"), require("umoci")
    export(world, box, world.greet, "--format=oci-dir", "-o", "layout", "--compression=gzip")
    export(world, box, world.greet, "-o", "zstd.tar", "--compression=zstd")
    inspected = world.run(skopeo, "inspect", f"oci:{box}/layout", cwd=box)
    assert json.loads(inspected.out)["Labels"]["dev.eka.packages"] == world.greet
    copied = world.run(
        skopeo, "--insecure-policy", "copy", f"oci-archive:{box}/zstd.tar", f"dir:{box}/copied"
    )
    assert copied.status == 0, copied.err.decode()
    rootless = [] if world.user.uid == 0 else ["--rootless"]
    image = f"{box}/layout:localhost/greet:1.0"
    unpacked = world.run(umoci, "unpack", *rootless, "--image", image, "unpacked", cwd=box)
    assert unpacked.status == 0, unpacked.err.decode()
    assert (box / "unpacked" / "rootfs" / world.greet[1:] / "bin" / "greet").is_file()


def test_a_plan_is_shown_and_nothing_written(world: World, box: Path) -> None:
    done = world.run("eka", "export", "--plan", world.greet, "--share-with", world.busybox, cwd=box)
    assert done.status == 0, done.err.decode()
    lines = done.out.decode().splitlines()
    assert lines[0].split() == ["SIZE", "PATHS", "LAYER"]
    assert [line.split()[-1] for line in lines[1:4]][-1].endswith("-greet-1.0")
    assert lines[4].startswith(f"with {world.busybox}: ")
    assert "(100%) in layers that both have" in lines[4]
    assert os.listdir(box) == []
    as_json = world.run("eka", "export", "--plan", "--json", world.greet, cwd=box)
    layers = [json.loads(line) for line in as_json.out.splitlines()]
    assert [world.greet] in [layer["paths"] for layer in layers]
