"""Builders that try what they may not, for every kind of user: refused, or cleaned up after."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builds import VECTORS, Derivations, build, instantiate
from tests.cli.conftest import open_directory
from tests.cli.world import World
from tests.requirements import require
from tests.users import labels

# Subordinate ids make no difference to a build.
pytestmark = pytest.mark.parametrize(
    "world", [label for label in labels() if label != "sub"], indirect=True, scope="session"
)

_HARMLESS = {
    # attribute: what the output says
    "network": b"1\n",
    "host": b"0\n",
    "others": b"done\n",
    "undeclared": b"absent\n",
    "setuid": b"x\n",
    "left": b"x\n",
    "kept": b"x\n",
}
_REFUSED = {
    # attribute: status of the error, and what it says
    "device": (62, "the store holds files, directories and symlinks"),
    "pipe": (62, "fifo"),
    "nothing": (60, "failed to produce output `out`"),
    "failing": (60, "failed with exit code 7"),
    "killed": (60, "failed due to signal 9"),
    "wrongHash": (62, "hash mismatch in fixed-output derivation"),
    "wrongKind": (62, "should be a non-executable regular file"),
    "refersFixed": (62, "must not refer to store paths"),
    "disallowed": (62, "is not allowed to refer to the following paths"),
    "requisites": (62, "is not allowed to refer directly or indirectly"),
    "allowed": (62, "is not allowed to refer to"),
    "large": (62, "is too large"),
    "circle": (62, "in a circle"),
    "noChroot": (61, "`__noChroot`"),
    "feature": (61, "with features {quantum}"),
    "elsewhere": (61, "a `vax-netbsd`"),
    "unknown": (61, "unknown builder"),
    "depends": (60, "was not built"),
}


@pytest.fixture(scope="session")
def hostile() -> Iterator[Derivations]:
    with open_directory() as place:
        yield instantiate(place, "hostile.nix")


@pytest.fixture
def loaded(world: World, hostile: Derivations) -> Iterator[World]:
    """Nothing of any build is left when the test ends."""
    hostile.load(world)
    yield world
    assert list((world.place / "store" / "build").iterdir()) == []


def running(world: World, seconds: int) -> bool:
    """Whether this user's sleep of so many seconds, which only one test has, still runs."""
    shown = world.run("ps", "-u", str(world.user.uid), "-o", "args").out.decode()
    return f"sleep {seconds}" in shown


def test_what_they_may_not_do_has_no_effect(loaded: World, hostile: Derivations) -> None:
    wanted = [hostile.drvs[name] for name in [*_HARMLESS, "linked"]]
    done = build(loaded, "-j", "4", *wanted)
    assert done.status == 0, done.err.decode()
    *outputs, linked = done.out.decode().split()
    for output, expected in zip(outputs, _HARMLESS.values(), strict=True):
        assert loaded.run("eka", "store", "cat", output).out == expected, output
    shown = loaded.run("eka", "store", "ls", "-l", linked).out.decode()
    assert "/etc/shadow" in shown
    listed = loaded.run("eka", "store", "list").out.decode()
    assert "planted" not in listed
    # Processes that were left behind, and would not have ended by themselves, are gone.
    assert not running(loaded, 98761)


def test_what_is_not_as_it_should_be_is_refused(loaded: World, hostile: Derivations) -> None:
    drvs = {hostile.drvs[name]: name for name in _REFUSED}
    done = build(loaded, "-j", "4", "--keep-going", "--json", *drvs)
    assert done.status != 0
    told = {one["drvPath"]: one for one in map(json.loads, done.out.splitlines())}
    for drv, name in drvs.items():
        status, text = _REFUSED[name]
        assert text in told[drv]["error"], told[drv]
        assert told[drv]["exitCode"] == status
        assert told[drv]["outputs"] == {}
    messages = done.err.decode()
    assert "> line 12" in messages
    assert "> line 2\n" not in messages
    assert "without it these cannot be built: depends" in messages
    log = loaded.run("eka", "log", hostile.drvs["failing"]).out.decode()
    assert log == "".join(f"line {number}\n" for number in range(1, 13))


def test_after_a_failure_nothing_new_is_begun(loaded: World, hostile: Derivations) -> None:
    wanted = [hostile.drvs[name] for name in ("failing", "nothing", "pipe")]  # never valid
    done = build(loaded, "-j", "1", "--json", *wanted)
    assert done.status == 60, done.err.decode()
    told = [json.loads(line) for line in done.out.splitlines()]
    assert [one["drvPath"] for one in told] == wanted
    assert "exit code 7" in told[0]["error"]
    assert [one["error"].endswith("another build failed") for one in told[1:]] == [True, True]
    assert b"3 derivations were not built; first: builder for" in done.err


def test_every_failure_names_its_derivation(loaded: World, hostile: Derivations) -> None:
    drv = hostile.drvs["wrongKind"]
    done = build(loaded, drv)
    assert done.status == 62, done.err.decode()
    assert f"error: building of `{drv}` failed: output path `" in done.err.decode()
    planned = build(loaded, "--dry-run", "--json", drv)
    assert json.loads(planned.out) == {"drvPath": drv, "outputs": ["out"]}


def test_what_has_another_hash_is_kept_under_its_own_path(
    loaded: World, hostile: Derivations
) -> None:
    done = build(loaded, hostile.drvs["wrongHash"])
    assert done.status == 62
    assert re.search(r"specified: sha256-\S+\n\s+got:    sha256-\S+", done.err.decode())
    listed = loaded.run("eka", "store", "list").out.decode()
    (path,) = [line for line in listed.split() if line.endswith("-wrong-hash")]
    assert loaded.run("eka", "store", "cat", path).out == b"other\n"


def test_builds_that_go_on_for_too_long_end(loaded: World, hostile: Derivations) -> None:
    done = build(loaded, "--max-silent-time", "0.5", hostile.drvs["silent"])
    assert done.status == 64, done.err.decode()
    assert b"timed out after 0.5 seconds of silence" in done.err
    done = build(loaded, "--timeout", "0.5", hostile.drvs["silent"])
    assert done.status == 64, done.err.decode()
    done = build(loaded, "--max-log-size", "10000000", hostile.drvs["flood"])
    assert done.status == 65, done.err.decode()
    place = loaded.place / "store" / "log"
    assert sum(file.stat().st_size for file in place.rglob("*flood*")) < 100_000
    assert not running(loaded, 98762)


def test_processes_without_end_are_limited(loaded: World, hostile: Derivations) -> None:
    done = build(loaded, "--limit", "pids=50", hostile.drvs["forks"])
    assert done.status == 60, done.err.decode()
    assert not running(loaded, 98763)


def test_a_failed_build_can_be_entered(loaded: World, hostile: Derivations) -> None:
    done = build(loaded, "--keep-failed", hostile.drvs["failing"])
    match = re.search(r"its bundle is kept in `(.*)`", done.err.decode())
    assert match, done.err.decode()
    kept = Path(match[1])
    again = loaded.run("eka", "bundle", "run", kept)
    assert (again.status, again.out.splitlines()[-1:]) == (7, [b"line 12"])
    inside = loaded.run("eka", "bundle", "run", kept, "/bin/sh", "-c", "pwd; echo $out")
    assert inside.out.decode().splitlines()[0] == "/build"
    assert inside.out.decode().rstrip().endswith("-failing")
    valid = loaded.run("eka", "bundle", "validate", kept)
    assert valid.status == 0, valid.out
    loaded.user.run(["rm", "-r", kept])


_REFUSING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute(sys.argv[2])
connection.commit()
"""


def test_what_may_be_in_the_store_is_not_kept_to_be_written_to(
    loaded: World, hostile: Derivations
) -> None:
    """A commit that fails may leave links to blobs."""

    def execute(statement: str) -> None:
        done = loaded.run(
            "python", "-c", _REFUSING, loaded.place / "store" / "db.sqlite", statement
        )
        assert done.status == 0, done.err.decode()

    execute(
        "create trigger refuse after insert on path when new.name = 'big-dev'"
        " begin update path set name = 'gone' where name = 'busybox-tools'; end"
    )
    done = build(loaded, "--keep-failed", hostile.drvs["big"])
    execute("drop trigger refuse")
    execute("update path set name = 'busybox-tools' where name = 'gone'")
    assert done.status != 0
    assert b"busybox-tools`, which is not in the store" in done.err, done.err.decode()
    assert b"is kept in" not in done.err
    valid = loaded.run("eka", "store", "list").out.split(b"\n")
    assert not [path for path in valid if path.endswith((b"-big", b"-big-dev"))]
    kept = loaded.place / "store" / "kept"
    assert not kept.exists() or list(kept.iterdir()) == []


def test_what_was_given_away_open_for_writing_changes_nothing(world: World) -> None:
    """Without its own network, a builder reaches whoever listens on the host."""
    name = f"eka-test-{os.urandom(8).hex()}"
    with open_directory() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        passer = place / "passer"
        passer.mkdir()
        words = (require("gcc"), f'-DNAME="{name}"', VECTORS / "passer.c", "-o", passer / "passer")
        subprocess.run(words, check=True)
        made = instantiate(place, "passing.nix", passer=passer)
        made.load(world)
        done = build(world, "--allow-no-chroot", made.drvs["passing"])
        assert done.status == 0, done.err.decode()
        with listener.accept()[0] as connection:
            (fd,) = socket.recv_fds(connection, 1, 1)[1]
    os.pwrite(fd, b"changed", 0)
    os.close(fd)
    verified = world.run("eka", "store", "verify", "--deep")
    assert verified.status == 0, verified.out.decode()
