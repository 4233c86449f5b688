"""Many starts at once, and starts that are killed: all succeed, and nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.world import World

STARTS = 200
KILLS = 40
RACES = int(os.environ.get("EKA_START_RACES", "1"))
STARTS_AT_ONCE = 6


class Place(NamedTuple):
    """Directories of one test's own, so that whatever is left there is of its starts."""

    world: World
    box: Path
    env: dict[str, str]

    @property
    def cache(self) -> Path:
        return Path(self.env["XDG_CACHE_HOME"]) / "eka"

    def script(self, body: str) -> Path:
        return self.world.script(self.box / "here", body)

    def start(self, script: Path, *words: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        cwd = script.parent
        return self.world.popen(script, *words, env=self.env, cwd=cwd, stdout=pipe, stderr=pipe)

    def run(self, script: Path, *words: str) -> bytes:
        done = self.world.run(script, *words, env=self.env, cwd=script.parent)
        assert (done.status, done.err) == (0, b"")
        return done.out

    def nothing_is_left(self) -> None:
        """No process, mount, or file but the script and the cache."""
        assert self.processes() == []
        mounts = Path("/proc/self/mountinfo").read_text()
        assert os.fspath(self.world.place) not in mounts
        assert os.listdir(self.env["TMPDIR"]) == []
        assert os.listdir(self.box / "here") == ["script"]
        assert set(os.listdir(self.cache)) <= {
            "bundle",
            "launch",
            "run",
            "shell",
            "host.json",
            "tidied",
        }

    def processes(self) -> list[str]:
        """Those that were started with the variables of this place, or with their names."""
        mark = os.fsencode(self.box)
        return [
            file.parent.name
            for file in Path("/proc").glob("[0-9]*/cmdline")
            if mark in content(file) or mark in content(file.with_name("environ"))
        ]


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # ended meanwhile, or another user's
        return b""


@pytest.fixture
def place(world: World, box: Path) -> Place:
    for name in ("tmp", "cache", "here"):
        (box / name).mkdir()
        os.chown(box / name, world.user.uid, world.user.gid)
    env = {"TMPDIR": os.fspath(box / "tmp"), "XDG_CACHE_HOME": os.fspath(box / "cache")}
    return Place(world, box, env)


@pytest.mark.timeout(300)
def test_many_starts(place: Place) -> None:
    script = place.script('echo "$1"; cat')
    for temperature in ("cold", "warm"):
        runs = [place.start(script, f"{temperature} {n}") for n in range(STARTS)]
        for number, run in enumerate(runs):
            out, err = run.communicate()
            assert (run.returncode, err) == (0, b""), err.decode()
            assert out.decode() == f"{temperature} {number}\n"
        place.nothing_is_left()
        # One launch and one bundle, whoever came first; nothing half written.
        assert len(os.listdir(place.cache / "bundle")) == 1
        assert all(not name.startswith(".") for name in os.listdir(place.cache / "launch"))
        assert set(os.listdir(place.cache / "run")) <= {"config.json"}
    assert len(os.listdir(place.cache / "launch")) == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("warm", [False, True])
def test_killed_starts(place: Place, warm: bool) -> None:
    script = place.script('echo "$1"; sleep 1 & sleep "$2"')
    lock = script.with_name("script.lock")
    dice = random.Random(4)
    # The first start of all asks what the host can do, once per boot, in a directory of its own.
    assert place.run(script, "first", "0") == b"first\n"
    if not warm:
        # A start that warns leaves no record, so that all are cold.
        place.world.file(lock, '{"format": "eka script lock 0"}')
    for number in range(KILLS):
        run = place.start(script, str(number), "1000")
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(dice.uniform(0, 0.08 if warm else 0.6))
        run.send_signal(signal.SIGKILL)
        # Ends only when every process that has the other end is gone.
        run.communicate()
        assert run.returncode == -signal.SIGKILL
    lock.unlink(missing_ok=True)
    place.nothing_is_left()
    assert place.run(script, "again", "0") == b"again\n"
    place.nothing_is_left()


def _own_store(place: Place) -> None:
    """A store with nothing but busybox in it, so that a collection takes no other test's paths."""
    place.env["EKA_STORE"] = os.fspath(place.box / "store")
    _fill(place)


def _fill(place: Place) -> None:
    far = place.world.place / "store"
    words = ("eka", "store", "copy", "--from", far, place.world.busybox)
    done = place.world.run(*words, env=place.env)
    assert done.status == 0, done.err.decode()


def _race(place: Place, script: Path) -> list[tuple[int, bytes, bytes]]:
    """Statuses and outputs of starts beside which collections go on."""
    pipe = subprocess.PIPE
    starts, collections = [], []
    for number in range(STARTS_AT_ONCE):
        if number % 3 == 1:
            words = ("eka", "store", "gc")
            one = place.world.popen(*words, env=place.env, stdout=pipe, stderr=pipe)
            collections.append(one)
        starts.append(place.start(script, "word"))
    for one in collections:
        _, err = one.communicate()
        assert one.returncode == 0, err.decode()
    done = [(one.communicate(), one.returncode) for one in starts]
    return [(status, out, err) for (out, err), status in done]


@pytest.mark.timeout(300)
def test_starts_race_collections_of_what_they_need(place: Place) -> None:
    """Each runs whole, or says that the package is gone; never anything in between."""
    _own_store(place)
    script = place.script('echo "$1"; busybox seq 1000 | busybox tail -n 1')
    for _ in range(RACES):
        for status, out, err in _race(place, script):
            if status == 0:
                assert (out, err) == (b"word\n1000\n", b"")
            else:
                assert (status, out) == (20, b""), err.decode()
                assert b"is not in the store" in err
        _fill(place)
    place.nothing_is_left()
    verified = place.world.run("eka", "store", "verify", "--deep", env=place.env)
    assert verified.status == 0, (verified.out + verified.err).decode()


@pytest.mark.timeout(300)
def test_starts_race_collections_of_other_things(place: Place) -> None:
    _own_store(place)
    busybox = place.world.busybox
    assert place.world.run("eka", "store", "root", "add", busybox, env=place.env).status == 0
    script = place.script('echo "$1"')
    other = place.world.file(place.box / "other", "other")
    for _ in range(RACES):
        assert place.world.run("eka", "store", "add", other, env=place.env).status == 0
        for status, out, err in _race(place, script):
            assert (status, out, err) == (0, b"word\n", b"")
