"""`eka store gc`, `root` and `compact` as typed, and beside scripts that run."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from eka.cli import cli
from eka.commands.store_gc import Duration, Size
from tests.cli.conftest import open_directory
from tests.cli.world import Done, World, make_world
from tests.installed import REPOSITORY
from tests.requirements import lacking
from tests.seed import NixClosure
from tests.stores import store_dir
from tests.users import get_user, labels

__all__ = ["store_dir"]

ABSENT = f"/nix/store/{'0' * 32}-absent"
DAY = 86_400

Eka = Callable[..., Result]


@pytest.fixture
def eka(store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Eka:
    """Runs `eka store ARG…` on the store of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))

    def run(*arguments: object) -> Result:
        words = ["store", "--store", str(store_dir), *map(str, arguments)]
        return CliRunner().invoke(cli, words, prog_name="eka")

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").write_bytes(b"d" * 1000)
    return tmp_path / "data"


def _line(result: Result) -> str:
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return line


def _record(result: Result, kind: str) -> dict[str, Any]:
    """The only one, which is as the schema says."""
    record: dict[str, Any] = json.loads(_line(result))
    schema = json.loads((REPOSITORY / "spec" / "store-output.schema.json").read_text())
    Draft202012Validator({"$defs": schema["$defs"], "$ref": f"#/$defs/{kind}"}).validate(record)
    return record


def _fails(result: Result, status: int, *texts: str) -> None:
    assert (result.exit_code, result.stdout) == (status, ""), result.output
    assert "Traceback" not in result.stderr
    for text in ("error: ", "hint: ", *texts):
        assert text in result.stderr


def _age(store: Path, name: str, days: int) -> None:
    """Makes a path look as if nobody wanted it for so many days."""
    with closing(sqlite3.connect(store / "db.sqlite")) as conn, conn:
        statement = "update path set used = used - ? where name = ?"
        assert conn.execute(statement, (days * DAY, name)).rowcount == 1


def test_bytes_on_stdout_and_words_on_stderr(eka: Eka, data: Path) -> None:
    path = _line(eka("add", data))
    dry = eka("gc", "--dry-run")
    assert (_line(dry), dry.stderr) == ("1000", f"{path}\nwould free 1000 B: 1 path, 1 blob\n")
    assert _line(eka("list")) == path
    done = eka("gc")
    assert (_line(done), done.stderr) == ("1000", "freed 1000 B: 1 path, 1 blob\n")
    assert eka("list").stdout == ""
    again = eka("gc")
    assert (_line(again), again.stderr) == ("0", "freed 0 B: 0 paths, 0 blobs\n")


def test_verbose_and_quiet(eka: Eka, data: Path) -> None:
    path = _line(eka("add", data))
    done = eka("gc", "-v")
    assert (_line(done), done.stderr.splitlines()[0]) == ("1000", path)
    assert eka("gc", "-q").stderr == ""


def test_the_cache_is_tidied_where_it_can_be(
    eka: Eka, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "cache" / "eka" / "launch" / "old"
    record.parent.mkdir(parents=True)
    record.write_bytes(b"no record")
    eka("add", data)
    assert eka("gc", "-n").exit_code == 0
    assert record.exists()
    assert _line(eka("gc")) == "1000"
    assert not record.exists()
    eka("add", data)
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert _line(eka("gc")) == "1000"


def test_json(eka: Eka, data: Path) -> None:
    path = _line(eka("add", data))
    expected = {"paths": [path], "blobs": 1, "bytesFreed": 1000, "bytesPending": 0}
    foretold = _record(eka("gc", "--json", "-n"), "collected")
    assert foretold == {"dryRun": True, **expected, "diskFreed": 0}
    done = eka("--json", "gc")
    record = _record(done, "collected")
    record.pop("diskFreed")
    assert (record, done.stderr) == ({"dryRun": False, **expected}, "")


def test_older_than(eka: Eka, data: Path, store_dir: Path) -> None:
    old = _line(eka("add", data, "--name", "old"))
    young = _line(eka("add", data.parent / "data", "--name", "young"))
    _age(store_dir, "old", 31)
    _age(store_dir, "young", 29)
    assert _line(eka("gc", "--older-than", "32d")) == "0"
    # Both have the same contents.
    done = eka("gc", "-v", "--older-than", "30d")
    assert (_line(done), done.stderr.splitlines()[0]) == ("0", old)
    assert _line(eka("list")) == young
    assert _line(eka("gc", "--older-than", "4w")) == "1000"


def test_max(eka: Eka, tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        (tmp_path / str(number)).write_bytes(bytes([number]) * (1 << 20))
        paths.append(_line(eka("add", tmp_path / str(number), "--name", f"n{number}")))
    assert _line(eka("gc", "--max", "0")) == "0"
    assert _record(eka("gc", "--max", "1M", "--json"), "collected")["paths"] == paths[:1]
    done = _record(eka("gc", "--max", "1.5MiB", "--json"), "collected")
    assert (done["paths"], done["bytesFreed"]) == (paths[1:], 2 << 20)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["gc", "--older-than", "30y"], "`30y` is not a duration such as 30d"),
        (["gc", "--older-than", "-1d"], "`-1d` is not a duration"),
        (["gc", "--older-than", ""], "`` is not a duration"),
        (["gc", "--older-than", "1.5d"], "`1.5d` is not a duration"),
        (["gc", "--max", "1X"], "`1X` is not a size such as 10G"),
        (["gc", "--max", "-5"], "`-5` is not a size"),
        (["gc", "--max", "nan"], "`nan` is not a size"),
        (["gc", "extra"], "extra"),
        (["compact", "--level", "20"], "20"),
        (["root", "add"], "PATH|LINK|FILE"),
        (["root", "add", "nonsense"], "`nonsense` is not a store path"),
        (["root", "remove"], "NAME"),
        (["root", "remove", "absent"], "there is no root `absent`"),
    ],
)
def test_bad_values(eka: Eka, data: Path, words: list[str], text: str) -> None:
    path = _line(eka("add", data))
    _fails(eka(*words), 2, text)
    assert _line(eka("list")) == path


def test_durations_and_sizes() -> None:
    for text, seconds in (("0", 0), ("7", 7), ("7s", 7), ("90m", 5400), ("2w", 14 * DAY)):
        assert Duration().convert(text, None, None) == seconds
    for text, size in (("0", 0), ("7", 7), ("7b", 7), ("1k", 1024), ("1.5TiB", 3 << 39)):
        assert Size().convert(text, None, None) == size


def test_without_a_store(eka: Eka, store_dir: Path) -> None:
    for words in (["gc"], ["gc", "-n"], ["compact"], ["root", "list"], ["root", "add", ABSENT]):
        _fails(eka(*words), 22, "there is no store at")
    assert not store_dir.exists()


def test_named_roots(eka: Eka, data: Path) -> None:
    path = _line(eka("add", data))
    assert _line(eka("root", "add", path)) == "data"
    assert _line(eka("root", "add", path)) == "data"
    other = _line(eka("add", data, "--name", "other"))
    _fails(eka("root", "add", other, "data"), 2, "there is a root `data` already", "another name")
    _fails(eka("root", "add", other, "-v -x"), 2)
    _fails(eka("root", "add", ABSENT), 20, ABSENT)
    record = _record(eka("root", "list", "--json"), "root")
    keys = {"name": "data", "kind": "named", "place": None, "alive": True, "paths": [path]}
    assert record == keys
    assert eka("root", "list").stdout.splitlines() == [
        "NAME  KIND   PLACE  KEEPS",
        f"data  named  -      {path}",
    ]
    assert _line(eka("gc")) == "0"
    assert _line(eka("list")) == path
    assert eka("root", "remove", "data").exit_code == 0
    assert eka("root", "list").stdout == ""
    assert _line(eka("gc")) == "1000"


def test_a_root_that_was_refused_is_not_there(eka: Eka, data: Path) -> None:
    path = _line(eka("add", data))
    _fails(eka("root", "add", ABSENT, "name"), 20)
    _fails(eka("root", "add", path, "no name"), 2, "`no name` is not a name for a root")
    assert eka("root", "list").stdout == ""
    assert _line(eka("gc")) == "1000"


def test_links_and_files_are_roots_while_they_are_there(eka: Eka, data: Path) -> None:
    path = _line(eka("add", data))
    link, lock = data.parent / "result", data.parent / "script.lock"
    link.symlink_to(path)
    lock.write_text(json.dumps({"paths": [path]}))
    for place, kind in ((link, "link"), (lock, "file")):
        record = _record(eka("root", "add", place, "--json"), "root")
        assert (record["kind"], record["place"], record["paths"]) == (kind, str(place), [path])
    link.unlink()
    listed = [json.loads(line) for line in eka("root", "list", "--json").stdout.splitlines()]
    assert {one["kind"]: one["alive"] for one in listed} == {"link": False, "file": True}
    assert "nothing (gone)" in eka("root", "list").stdout
    assert _line(eka("gc")) == "0"
    lock.unlink()
    assert _line(eka("gc")) == "1000"
    assert eka("root", "list").stdout == ""


def test_what_cannot_be_a_root(eka: Eka, data: Path) -> None:
    _line(eka("add", data))
    link = data.parent / "elsewhere"
    link.symlink_to(data)
    for place, text in ((data, "names no store path"), (link, "does not lead into /nix/store")):
        assert text in eka("root", "add", place).stderr
        assert eka("root", "add", place).exit_code == 2
    assert eka("root", "list").stdout == ""


def test_compact(eka: Eka, data: Path) -> None:
    path = _line(eka("add", data))
    done = eka("compact")
    saved = int(_line(done))
    assert 900 < saved < 1000
    after = 1000 - saved
    assert done.stderr == f"1 blob: 1000 B became {after} B\n"
    assert eka("cat", path).stdout_bytes == b"d" * 1000
    record = _record(eka("compact", "--json"), "compacted")
    assert record == {"blobs": 0, "bytesBefore": 0, "bytesAfter": 0}
    assert json.loads(eka("du", "--json").stdout)["compressedBytes"] == saved
    # Contents count as they are, not as they lie.
    assert _line(eka("gc")) == "1000"


@pytest.fixture(scope="module", params=labels())
def seeded(request: pytest.FixtureRequest, eka_bin: Path, closure: NixClosure) -> Iterator[World]:
    """Nothing was ever run from its store."""
    user = get_user(request.param)
    with open_directory() as place, make_world(user, eka_bin, place, closure) as made:
        yield made


@pytest.fixture
def world(seeded: World, request: pytest.FixtureRequest) -> Iterator[World]:
    """A copy for one test to collect in; it must verify at the end."""
    name = re.sub(r"\W+", "-", request.node.name)[:60]
    place = seeded.directory(name)
    copied = seeded.user.run(["cp", "-a", seeded.place / "store", place / "store"])
    assert copied.returncode == 0, copied.stderr.decode()
    world = seeded._replace(place=place)
    world.work.mkdir()
    os.chown(world.work, world.user.uid, world.user.gid)
    yield world
    verified = world.run("eka", "store", "verify", "--deep")
    assert verified.status == 0, (verified.out + verified.err).decode()


def _gc(world: World, *options: str) -> set[str]:
    """The paths that are gone."""
    done = world.run("eka", "store", "gc", "--json", *options)
    assert (done.status, done.err) == (0, b"")
    return set(json.loads(done.out)["paths"])


def _paths(world: World) -> set[str]:
    done = world.run("eka", "store", "list")
    assert done.status == 0
    return set(done.out.decode().split())


def _import(world: World, closure: NixClosure) -> None:
    with closure.stream.open("rb") as stream:
        assert world.run("eka", "store", "import", stdin=stream).status == 0


WAITING = """\
echo ready
read line
echo "$line"; greet again; cat "$(command -v greet)" > /dev/null && echo read
"""


def _start(world: World, *words: str | Path) -> subprocess.Popen[bytes]:
    """Has said that it is ready, and waits for a line."""
    pipe = subprocess.PIPE
    process = world.popen(*words, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def _finish(world: World, process: subprocess.Popen[bytes]) -> bytes:
    """Lets it go on; returns its stderr."""
    out, err = process.communicate(b"go\n")
    lines = out.decode().splitlines()
    assert lines == ["go", f"Hello, again! I live in {world.greet}/bin/greet", "read"], err
    assert process.returncode == 0
    return err


def _waiting_script(world: World) -> Path:
    header = f'packages = ["{world.greet}", "{world.busybox}"]'
    return world.script(world.work, WAITING, header)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_running_script_keeps_its_closure(world: World, closure: NixClosure, warm: bool) -> None:
    script = _waiting_script(world)
    # The first start may come too soon after the store was made to be recorded (`eka.record`).
    for _ in range(2 if warm else 0):
        _finish(world, _start(world, script))
    # Only a cold start heeds this variable: the warm one runs isolated.
    process = _start(world, "env", "PYTHONPROFILEIMPORTTIME=1", script)
    assert _gc(world, "--dry-run") == {world.other}
    assert _gc(world) == {world.other}
    assert _paths(world) == set(closure.paths)
    assert _gc(world) == set()
    assert (b"import time:" in _finish(world, process)) is not warm


def test_afterwards_it_goes_and_comes_back(world: World, closure: NixClosure) -> None:
    script = _waiting_script(world)
    process = _start(world, script)
    _gc(world)
    _finish(world, process)
    assert _gc(world) == set(closure.paths)
    assert _paths(world) == set()
    assert os.listdir(world.place / "cache" / "eka" / "bundle") == []
    failed = world.run(script)
    assert (failed.status, failed.out) == (20, b"")
    assert b"Traceback" not in failed.err
    assert b"is not in the store" in failed.err
    assert b"hint: " in failed.err
    _import(world, closure)
    for _ in range(2):
        _finish(world, _start(world, script))


def test_two_that_run_from_one_bundle(world: World, closure: NixClosure) -> None:
    script = _waiting_script(world)
    first, second = _start(world, script), _start(world, script)
    _finish(world, first)
    assert _gc(world) == {world.other}
    _finish(world, second)
    assert _gc(world) == set(closure.paths)


def test_what_was_killed_keeps_nothing(world: World, closure: NixClosure) -> None:
    process = _start(world, _waiting_script(world))
    process.kill()
    # The pipe ends when nothing of it is left.
    process.communicate()
    assert _gc(world) == {world.other, *closure.paths}


def test_programs_of_eka_run_keep_theirs(world: World, closure: NixClosure) -> None:
    words = ("-p", world.greet, "-p", world.busybox, "sh", "-c", WAITING)
    process = _start(world, "eka", "run", *words)
    assert _gc(world) == {world.other}
    _finish(world, process)
    assert _gc(world) == set(closure.paths)


def test_recently_started_scripts_stay_with_older_than(world: World, closure: NixClosure) -> None:
    _finish(world, _start(world, _waiting_script(world)))
    for path in (world.other, *closure.paths):
        _age(world.place / "store", os.path.basename(path)[33:], 40)
    assert _gc(world, "--older-than", "30d") == {world.other}
    assert _gc(world) == set(closure.paths)


def test_a_bundle_keeps_its_closure_until_it_is_removed(world: World, closure: NixClosure) -> None:
    bundle = world.work / "bundle"
    made = world.run("eka", "bundle", "create", "-o", bundle, world.greet)
    assert made.status == 0, made.err.decode()
    listed = world.run("eka", "store", "root", "list", "--json")
    (root,) = map(json.loads, listed.out.splitlines())
    assert (root["kind"], root["place"], root["alive"]) == ("bundle", str(bundle), True)
    assert _gc(world) == {world.other}
    assert world.run("eka", "bundle", "validate", bundle).status == 0
    shutil.rmtree(bundle)
    assert _gc(world) == set(closure.paths)
    assert world.run("eka", "store", "root", "list").out == b""


def test_a_script_still_runs_after_compaction(world: World) -> None:
    script = _waiting_script(world)
    assert world.run("eka", "store", "compact").status == 0
    _finish(world, _start(world, script))
    process = _start(world, script)
    assert world.run("eka", "store", "compact").status == 0
    assert _gc(world) == {world.other}
    _finish(world, process)


@pytest.fixture
def theirs(world: World) -> Path:
    """A store of another user that this one can read; root could even write to it."""
    if os.geteuid() != 0:
        lacking("only root can make the store of another user")
    place = world.place / "theirs"
    shutil.copytree(world.place / "store", place, symlinks=True)
    owner = 0 if world.user.uid else get_user("nosub").uid
    for directory, _, files in os.walk(place):
        for name in (".", *files):
            os.chown(os.path.join(directory, name), owner, owner, follow_symlinks=False)
    return place


def _refused(done: Done, *texts: bytes) -> None:
    assert (done.status, done.out) == (24, b"")
    assert b"Traceback" not in done.err
    for text in (b"error: ", b"hint: ", *texts):
        assert text in done.err


def test_the_store_of_another_user_is_refused(world: World, theirs: Path) -> None:
    before = world.run("eka", "store", "--store", theirs, "list").out
    owner = theirs.stat().st_uid
    done = world.run("eka", "store", "--store", theirs, "gc")
    if world.user.uid:
        _refused(done, b"can only be read by this user", b"ask its owner")
    else:
        _refused(done, b"belongs to user %d" % owner, b"sudo -u '#%d' eka store" % owner)
    assert before
    assert world.run("eka", "store", "--store", theirs, "list").out == before
    for words in (("compact",), ("root", "add", world.other), ("root", "remove", "x")):
        if world.user.uid:
            _refused(world.run("eka", "store", "--store", theirs, *words))
