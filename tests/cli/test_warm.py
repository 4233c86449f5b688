"""Launch records: they are used, and no change to what they depend on is missed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.cli.world import Done, World


def records(world: World) -> set[str]:
    place = world.place / "cache" / "eka" / "launch"
    return set(os.listdir(place)) if place.exists() else set()


# The cold path starts a Python that heeds this variable; the warm one runs isolated (-E).
TELLING = {"PYTHONPROFILEIMPORTTIME": "1"}


def is_cold(done: Done) -> bool:
    return b"import time:" in done.err


@pytest.fixture
def recorded(world: World, box: Path) -> Path:
    """A script that was started once and left a record."""
    before = records(world)
    script = world.script(box, 'echo "one: $1"', 'read = ["./data"]\nenv = ["VALUE"]')
    world.file(box / "data", "x")
    first = world.run(script, "a", cwd=box, env=TELLING)
    assert first.out == b"one: a\n", first.err.decode()
    assert is_cold(first)
    assert len(records(world) - before) == 1
    return script


def test_the_second_start_is_warm(world: World, recorded: Path, box: Path) -> None:
    second = world.run(recorded, "b", cwd=box, env=TELLING)
    assert (second.out, second.err) == (b"one: b\n", b"")
    elsewhere = world.run(recorded, "c", cwd=box.parent, env=TELLING)
    assert (elsewhere.out, is_cold(elsewhere)) == (b"one: c\n", True)


def change_script(world: World, script: Path) -> None:
    text = script.read_bytes().replace(b"one:", b"two:")
    world.file(script, text, 0o755)


def change_script_keeping_times(world: World, script: Path) -> None:
    status = script.stat()
    change_script(world, script)
    os.utime(script, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_script(world: World, script: Path) -> None:
    text = script.read_bytes().replace(b"one:", b"two:")
    other = world.file(script.with_name("other"), text, 0o755)
    os.rename(other, script)


@pytest.mark.parametrize("change", [change_script, change_script_keeping_times, replace_script])
def test_a_changed_script_is_noticed(
    world: World, recorded: Path, box: Path, change: Callable[[World, Path], None]
) -> None:
    change(world, recorded)
    assert world.run(recorded, "a", cwd=box).out == b"two: a\n"


STATED = "packages = []"


CHANGES = [change_script, change_script_keeping_times, replace_script]


@pytest.mark.parametrize("change", CHANGES, ids=["text", "times", "inode"])
def test_a_program_that_is_worked_on_starts_warm(
    world: World, box: Path, change: Callable[[World, Path], None]
) -> None:
    """What a script that states its packages does is no part of its bundle."""
    script = world.script(box, "echo one: $1", STATED)
    assert is_cold(world.run(script, "a", cwd=box, env=TELLING))
    change(world, script)
    done = world.run(script, "b", cwd=box, env=TELLING)
    assert (done.out, done.err) == (b"two: b\n", b"")


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("packages = []", "packages = []\n# network = true", 0),
        ("\necho", "\n#!eka-run --nonsense\necho", 10),
        ("\necho", "\n# a comment that goes on\necho", 0),
        ("\necho", "\n# /// eka\n# ///\necho", 10),
        ("\necho one", "\necho one; echo '/// eka'", 0),
        ("#!/", "#! /", 0),
    ],
    ids=["block", "flags", "comment", "second", "mention", "shebang"],
)
def test_what_may_be_another_statement_is_read(
    world: World, box: Path, old: str, new: str, status: int
) -> None:
    script = world.script(box, "echo one", STATED)
    world.run(script, cwd=box)
    assert not is_cold(world.run(script, cwd=box, env=TELLING))
    world.file(script, script.read_text().replace(old, new, 1), 0o755)
    done = world.run("eka-run", script, cwd=box, env=TELLING)
    assert (done.status, is_cold(done)) == (status, True), done.err.decode()
    assert b"one\n" in done.out or status


def test_store_paths_in_a_script_without_packages_are_seen(world: World, box: Path) -> None:
    text = "#!/usr/bin/env eka-run\necho none\n"
    script = world.file(box / "script", text, 0o755)
    world.run(script, cwd=box)
    world.file(script, text.replace("none", f"$({world.greet}/bin/greet x)"), 0o755)
    assert world.run(script, cwd=box).out.startswith(b"Hello, x!")


def test_a_grant_that_leads_elsewhere_is_noticed(world: World, box: Path) -> None:
    for name in ("first", "second"):
        (box / name).mkdir()
        world.file(box / name / "data", name)
    (box / "link").symlink_to("first")
    script = world.script(box, f"cat {box}/link/data", 'read = ["./link"]')
    assert world.run(script, cwd="/").out == b"first"
    (box / "link").unlink()
    (box / "link").symlink_to("second")
    assert world.run(script, cwd="/").out == b"second"


def test_a_package_link_that_leads_elsewhere_is_noticed(world: World, box: Path) -> None:
    (box / "result").symlink_to(world.greet)
    script = world.script(box, "greet x", 'packages = ["./result"]')
    assert world.run(script).status == 0
    (box / "result").unlink()
    (box / "result").symlink_to(world.busybox)
    assert world.run(script).status == 127


def test_a_deleted_view_is_made_again(world: World, recorded: Path, box: Path) -> None:
    view = world.place / "store" / "view" / "bind" / "nix" / "store"
    for directory, _, _ in os.walk(view):
        os.chmod(directory, 0o700)
    shutil.rmtree(view)
    assert world.run(recorded, "c", cwd=box).out == b"one: c\n"


def test_a_deleted_bundle_is_made_again(world: World, recorded: Path, box: Path) -> None:
    shutil.rmtree(world.place / "cache" / "eka" / "bundle")
    assert world.run(recorded, "d", cwd=box).out == b"one: d\n"


def test_another_store_is_noticed(world: World, recorded: Path, box: Path) -> None:
    done = world.run(recorded, "e", cwd=box, env={"EKA_STORE": str(box / "empty")})
    assert done.status == 20


def test_settings_are_noticed(world: World, recorded: Path, box: Path) -> None:
    config = world.place / "config" / "eka"
    config.mkdir(parents=True)
    try:
        (config / "eka.toml").write_text('unknown = "x"\n')
        assert world.run(recorded, cwd=box).status == 11
    finally:
        shutil.rmtree(config.parent)


def test_variables_are_passed_anew(world: World, box: Path) -> None:
    script = world.script(box, 'echo "$VALUE"', 'env = ["VALUE"]')
    for value in ("first", "second", ""):
        assert world.run(script, env={"VALUE": value}).out == f"{value}\n".encode()


def test_a_broken_record_is_not_used(world: World, recorded: Path, box: Path) -> None:
    place = world.place / "cache" / "eka" / "launch"
    for name in records(world):
        (place / name).write_bytes(b"\xe9garbage")
    assert world.run(recorded, "f", cwd=box).out == b"one: f\n"


def test_a_record_of_another_user_is_not_used(world: World, recorded: Path, box: Path) -> None:
    place = world.place / "cache" / "eka" / "launch"
    for name in records(world):
        os.chmod(place / name, 0o666)
    assert world.run(recorded, "g", cwd=box).out == b"one: g\n"


ALLOWED = {
    "__future__",
    "_blake2",
    "_ctypes",
    "_json",
    "_signal",
    "_struct",
    "eka",
    "eka.warm",
    "eka_runtime",
    "eka_runtime.runtime",
    "eka_runtime.runtime.enter",
    "eka_runtime.runtime.isolate",
    "fcntl",
    "marshal",
    "struct",
}
"""What a warm start may import beyond a bare `python -ISE`; each is known to be cheap."""


def imported(
    world: World, *words: str, cwd: Path, env: Mapping[str, str] | None = None, mode: str = "-ISE"
) -> set[str]:
    python = str(world.bin / "python3")
    done = world.run(python, mode, "-X", "importtime", *words, cwd=cwd, env=dict(env or {}))
    assert done.status == 0, done.err.decode()
    lines = [line for line in done.err.decode().splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


def test_a_warm_start_imports_only_what_is_pinned(world: World, recorded: Path, box: Path) -> None:
    stub = (world.bin / "eka-run").read_text()
    code = stub.split("-ISE -c '")[1].split("'")[0]
    (site,) = (world.bin.parent / "lib").glob("python3.*/site-packages")
    bare = imported(world, "-c", "import sys; pass", cwd=box)
    warm = imported(world, "-c", code, str(site), str(recorded), "a", cwd=box)
    assert "eka.warm" in warm
    assert warm - bare <= ALLOWED


def test_a_first_start_imports_nothing_that_takes_longer_than_a_sandbox(
    world: World, box: Path
) -> None:
    """pydantic alone took as long as all the rest; dataclasses import inspect, and that ast."""
    world.run(world.script(box, "true", name="before"), cwd=box)  # the host is known from now on
    script = world.script(box, "true")
    found = imported(world, "-m", "eka.run", os.fspath(script), cwd=box, mode="-P")
    assert "eka_runtime.oci.bundle" in found
    heavy = {"pydantic", "dataclasses", "inspect", "platform", "click", "rich", "urllib3"}
    heavy |= {"subprocess", "tempfile"}
    assert found & heavy == set()


def test_what_is_not_granted_is_said_at_every_start(world: World, box: Path) -> None:
    """The working directory is not granted where it is a home, which is worth a word."""
    script = world.script(box, "true")
    env = TELLING | {"HOME": os.fspath(box)}
    first, second = (world.run(script, cwd=box, env=env) for _ in range(2))
    notes = [line for line in first.err.splitlines() if not line.startswith(b"import time:")]
    assert len(notes) == 1
    assert notes[0].startswith(b"warning: ")
    assert (is_cold(second), second.err.splitlines()) == (False, notes)
    for _ in range(2):
        quiet = world.run("eka-run", "-q", script, cwd=box, env={"HOME": os.fspath(box)})
        assert quiet.err == b""


def test_another_boot_is_noticed(world: World, recorded: Path, box: Path) -> None:
    """What was written before and not synced may be gone: a first start looks, and mends it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    cache = world.place / "cache" / "eka"
    found = [cache / "launch" / name for name in records(world)]
    found = [record for record in found if boot in record.read_bytes()]
    assert found
    for record in found:
        world.file(record, record.read_bytes().replace(boot, boot[::-1]), 0o600)
    for file in (cache / "bundle").glob("*/rootfs/etc/passwd"):
        os.truncate(file, 0)
    done = world.run(recorded, "h", cwd=box, env=TELLING)
    assert (done.out, is_cold(done)) == (b"one: h\n", True)
    assert any(file.stat().st_size for file in (cache / "bundle").glob("*/rootfs/etc/passwd"))
