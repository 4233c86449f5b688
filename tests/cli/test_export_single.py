"""A single file starts its program on a host without eka, as every kind of user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.world import Done, World
from tests.requirements import lacking

AWKWARD = [
    "",
    " ",
    'a "b" \\c',
    "tab\tand\nnew\nlines\n",
    "\x01\x1b[0m\r",
    "ü€😀",
    "$(id) `id` $HOME",
    "-n",
]


class Single:
    """The file, and how to start it with nothing of eka's in the environment."""

    def __init__(self, world: World, box: Path, file: Path) -> None:
        self.world, self.box, self.file = world, box, file

    def environment(self, **more: str) -> dict[str, str]:
        path = "/usr/bin:/bin:/usr/sbin"
        own = {"PATH": path, "XDG_CACHE_HOME": str(self.box / "cache"), "TMPDIR": str(self.box)}
        return own | more

    def __call__(self, *words: str, cwd: Path | None = None, **more: str) -> Done:
        done = self.world.user.run(
            [self.file, *words],
            env=self.environment(**more),
            cwd=cwd or self.box / "work",
            stdin=None,
            input=b"from stdin\n",
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def single(world: World, box: Path) -> Single:
    """Prints its arguments, NUL after each, what it reads, and ends with status 42."""
    header = 'env = ["SECRET", "WORD=hello"]'
    body = 'for word in "$@"; do printf "%s\\0" "$word"; done; cat; echo "$SECRET$WORD"; exit 42'
    script = world.script(box, body, header, name="prog")
    made = world.run(
        "eka", "export", script, "one", "two", "--format=single-file", "-o", "run.me", cwd=box
    )
    assert made.status == 0, made.err.decode()
    assert made.out.decode() == f"{box}/run.me\n"
    script.unlink()
    (box / "work").mkdir()
    os.chown(box / "work", world.user.uid, world.user.gid)
    file = Single(world, box, box / "run.me")
    tried = file()
    if tried.status != 42:
        lacking(f"neither crun nor runc works by hand here: {tried.err.decode()}")
    return file


def test_arguments_streams_and_status_pass_through(single: Single) -> None:
    for words, expected in (([], ["one", "two"]), (AWKWARD, AWKWARD)):
        done = single(*words, SECRET="s3")
        *got, rest = done.out.decode().split("\0")
        assert got == expected, done.err.decode()
        assert rest == "from stdin\ns3hello\n"
        assert (done.status, done.err) == (42, b"")
    left = [name for name in os.listdir(single.box) if name.startswith("eka-run-")]
    assert left == [], "the directory of a start stays behind"


def test_it_unpacks_once_and_may_be_moved(single: Single) -> None:
    [place] = (single.box / "cache" / "eka-bundle").iterdir()
    before = (place / "config.template").stat()
    moved = single.box / "other name"
    single.file.rename(moved)
    single.file = moved
    assert single("x").status == 42
    assert (place / "config.template").stat() == before
    assert [one.name for one in (single.box / "cache" / "eka-bundle").iterdir()] == [place.name]


def test_a_start_sees_its_directory_and_what_is_granted(world: World, box: Path) -> None:
    body = 'cat here; cat "$1" 2>/dev/null || echo none; echo new > made; id -u'
    script = world.script(box, body, name="prog")
    made = world.run("eka", "export", script, "--format=single-file", "-o", "run.me", cwd=box)
    assert made.status == 0, made.err.decode()
    file = Single(world, box, box / "run.me")
    work, other = world.directory(f"{box.name}-work"), world.directory(f"{box.name}-other")
    world.file(work / "here", "in the directory\n")
    world.file(other / "there", "elsewhere\n")
    closed = file(str(other / "there"), cwd=work)
    if not closed.out:
        lacking(f"neither crun nor runc works by hand here: {closed.err.decode()}")
    assert closed.out == b"in the directory\nnone\n0\n"
    opened = file(str(other / "there"), cwd=work, EKA_READ=str(other))
    assert opened.out == b"in the directory\nelsewhere\n0\n", opened.err.decode()
    assert (work / "made").stat().st_uid == world.user.uid
    missing = file("x", cwd=work, EKA_WRITE=f"{other}:{other}/no")
    assert (missing.status, missing.out) == (42, b"")
    assert f"there is no {other}/no".encode() in missing.err


def test_a_signal_reaches_the_program_and_what_ends_cleans_up(world: World, box: Path) -> None:
    body = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    script = world.script(box, body, name="prog")
    assert (
        world.run("eka", "export", script, "--format=single-file", "-o", "x", cwd=box).status == 0
    )
    file = Single(world, box, box / "x")
    process = world.user.popen(
        [file.file], env=file.environment(), cwd=box, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        lacking(f"neither crun nor runc works by hand here: {process.communicate()[1].decode()}")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"got it\n", 7)
    assert [name for name in os.listdir(box) if name.startswith("eka-run-")] == []


def test_a_single_file_can_be_unpacked(single: Single) -> None:
    place = single.box / "unpacked"
    assert single(EKA_EXTRACT=str(place)).status == 0
    assert (place / "rootfs" / "app" / "prog").is_file()
    template = (place / "config.template").read_text()
    assert '"hostID":\n@UID@\n' in template


def test_single_files_are_the_same_everywhere(world: World, box: Path) -> None:
    words = ("--format=single-file", "--json", "-o")
    digests = set()
    for name in ("a", "b"):
        done = world.run("eka", "export", world.greet, *words, name, cwd=box)
        digests.add(json.loads(done.out)["digest"])
    assert len(digests) == 1
    assert (box / "a").read_bytes() == (box / "b").read_bytes()
    assert _SEEN.setdefault("greet", (box / "a").read_bytes()) == (box / "a").read_bytes()


_SEEN: dict[str, bytes] = {}
