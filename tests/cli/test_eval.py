"""`eka eval`, `plan` and `config show`, as each kind of user, with real Nix in real bundles."""

from __future__ import annotations

import json
import marshal
from pathlib import Path

import pytest

from tests.cli.world import Done, World

MANIFEST = """
[package]
label = "{label}"
version = "0.1.0"
[compose.as]
nix = "."
"""
EXPRESSION = """
{
  text = "hello from ${cfg.package.label} on ${builtins.currentSystem}";
  main = derivation {
    name = "thing";
    system = cfg.platforms.host;
    builder = "/bin/sh";
    src = ./data;
    helper = import ./sub { };
  };
  files = builtins.readFile "${./.}/data";
  time = builtins.currentTime;
  time2 = __currentTime;
  hidden = builtins.builtins.currentTime;
  scoped = builtins.scopedImport { } ./sub/clock.nix;
  home = builtins.getEnv "HOME";
  passwd = builtins.readFile /etc/passwd;
  inHome = builtins.readFile ~/.profile;
  beside = import ../other/default.nix;
  path = <nixpkgs>;
  url = builtins.fetchurl "http://localhost:1/x";
  git = fetchGit "https://example.org/x.git";
  process = builtins.readFile /proc/self/environ;
  store = builtins.readFile OTHER;
  context = derivation {
    name = "x";
    system = "x";
    builder = builtins.appendContext "OTHER" { "OTHER" = { path = true; }; };
  };
  link = builtins.readFile ./link;
  traced = builtins.trace "on the way" 1;
  broken = 1 + "a";
  deep = let f = n: if n == 0 then throw "at the bottom" else 1 + f (n - 1); in f 200;
}
"""


@pytest.fixture
def atom(world: World, box: Path) -> Path:
    return make_atom(world, box, "tool")


def make_atom(world: World, above: Path, label: str) -> Path:
    place = world.directory(str(above.relative_to(world.work) / label))
    world.file(place / "atom.toml", MANIFEST.format(label=label))
    world.file(place / "default.nix", EXPRESSION.replace("OTHER", world.other))
    world.file(place / "data", "some data\n")
    (place / "link").symlink_to("/etc/passwd")
    sub = world.directory(str(place.relative_to(world.work) / "sub"))
    world.file(sub / "default.nix", "{ }: builtins.readFile ../data")
    world.file(sub / "clock.nix", "builtins.currentTime")
    return place


def evaluate(world: World, atom: Path, *arguments: str) -> Done:
    return world.run("eka", "eval", str(atom), *arguments)


def test_a_value_a_plan_and_the_configuration(world: World, atom: Path) -> None:
    text = evaluate(world, atom, "--attr", "text", "--raw")
    assert text.status == 0, text.err.decode()
    assert text.out.startswith(b"hello from tool on ")
    assert json.loads(evaluate(world, atom, "-A", "files", "--json").out) == "some data\n"
    plan = world.run("eka", "plan", "--json", f"{atom}#main")
    found = json.loads(plan.out)
    shown = json.loads(world.run("eka", "config", "show", str(atom), "--json").out)
    assert found["artifactId"] == shown["artifactId"]
    assert found["configHash"] == shown["configHash"]
    drv = world.run("eka", "store", "info", found["drvPath"], "--json")
    assert drv.status == 0, drv.err.decode()
    # `main` is what an atom is asked for, if nothing else.
    assert world.run("eka", "plan", str(atom)).out.decode().strip() == found["drvPath"]


REFUSED = {
    "time": "`builtins.currentTime`",
    "store": "-secret`",
    "beside": "other`",
    "passwd": "`/etc/passwd`",
    "time2": "`builtins.currentTime`",
    "hidden": "`builtins.currentTime`",
    "scoped": "`builtins.currentTime`",
    "home": "the environment variable `HOME`",
    "inHome": "`/homeless-shelter/.profile`",
    "path": "`<nixpkgs>`",
    "url": "http://localhost:1/x",
    "git": "https://example.org/x.git",
    "process": "`/proc/self/environ`",
    "context": "-secret`",
    "link": "`/etc/passwd`",
}


def test_what_is_no_input_is_refused_by_name(world: World, box: Path) -> None:
    make_atom(world, box, "other")
    atom = make_atom(world, box, "tool")
    # Who asks makes a difference to the kernel only, and that is the same for each kind of input.
    some = list(REFUSED) if world.user.label in ("root", "self") else list(REFUSED)[:4]
    for attribute in some:
        done = evaluate(world, atom, "-A", attribute)
        assert done.status == 67, (done.out + done.err).decode()
        first = done.err.decode().splitlines()[0]
        # Newer ones name the first directory in which they may not look.
        refused = first.split("`")[1]
        wanted = REFUSED[attribute]
        assert wanted in first or wanted.startswith(f"`{refused}/")
        assert done.out == b""


def test_an_error_says_where(world: World, atom: Path) -> None:
    done = evaluate(world, atom, "-A", "broken")
    assert done.status == 66
    assert f"{atom}/default.nix:" in done.err.decode()
    # What leads there takes more than anybody wants to read.
    deep = evaluate(world, atom, "-A", "deep").err.decode().splitlines()
    assert deep[0] == "error: at the bottom"
    assert deep[2].strip().startswith(f"at {atom}/default.nix:")
    assert len(deep) < 30
    missing = evaluate(world, atom, "-A", "nothing")
    assert missing.status == 66
    assert b"has no `nothing`; it has" in missing.err
    world.file(atom / "open.nix", "{ ... }: { }")
    nameless = evaluate(world, atom / "open.nix", "-A", "nothing").err
    assert b"the value is a function that names no arguments, and has no `nothing`" in nameless


def test_traces_are_for_people(world: World, atom: Path) -> None:
    world.file(atom / "data", "for traces\n")
    done = evaluate(world, atom, "-A", "traced")
    assert done.out == b"1\n"
    assert b"trace: on the way" in done.err


def test_a_result_is_kept_while_its_inputs_are_the_same(world: World, atom: Path) -> None:
    def traced(*arguments: str) -> bool:
        done = evaluate(world, atom, "-A", "traced", *arguments)
        assert done.status == 0, done.err.decode()
        return b"on the way" in done.err

    world.file(atom / "data", "first data\n")
    assert traced()
    assert not traced()
    assert traced("--set", "a=1")
    assert not traced("--set", "a=1.0")
    world.file(atom / "data", "other data\n")
    assert traced()
    assert not traced()
    world.file(atom / "data", "first data\n")
    assert not traced()
    world.file(atom / "sub" / "new.nix", "1")
    assert traced()


HEAVY = {"click", "pydantic", "concurrent.futures", "logging", "subprocess", "tempfile", "shutil"}
HEAVY |= {"urllib3", "ctypes", "eka.cli", "eka.launching", "eka.prepare", "eka.realising"}
HEAVY |= {"eka_runtime.oci.bundle", "eka_runtime.build.scheduler", "eka_runtime.runtime.launch"}
HEAVY |= {"eka.evaluate.compiling"}
"""What takes longer to import than most evaluations take."""


def imported(done: Done) -> set[str]:
    """The modules that a program, and what it has forked, said that they import."""
    assert done.status == 0, done.err.decode()
    lines = [line for line in done.err.decode().splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_an_edited_atom_is_evaluated_without_what_takes_long_to_import(
    world: World, atom: Path
) -> None:
    python = (world.bin / "python3", "-X", "importtime", "-c")

    def edited(number: int) -> set[str]:
        world.file(atom / "data", f"{number}")
        words = ("from eka.entry import main; main()", "eval", atom, "-A", "traced")
        done = world.run(*python, *words)
        assert b"on the way" in done.err
        return imported(done)

    assert "eka.evaluate.compiling" in edited(1)
    found = edited(2) - imported(world.run(*python, "pass"))
    assert "eka.evaluate.sandbox" in found
    assert sorted(found & HEAVY) == []


def test_a_record_that_does_not_start_is_made_anew(world: World, atom: Path) -> None:
    before = set(evaluation_records(world))
    world.file(atom / "data", "of no other test")
    assert evaluate(world, atom, "-A", "files").status == 0
    (record,) = set(evaluation_records(world)) - before
    contents = marshal.loads(record.read_bytes())
    contents["plan"]["runtime"] = ("/nonexistent", *contents["plan"]["runtime"][1:])
    world.file(record, marshal.dumps(contents), 0o600)
    world.file(atom / "data", "changed")
    done = evaluate(world, atom, "-A", "files", "--raw")
    assert (done.status, done.out) == (0, b"changed"), done.err.decode()
    assert marshal.loads(record.read_bytes())["plan"]["runtime"][0] != "/nonexistent"


def test_a_record_is_of_one_host(world: World, atom: Path) -> None:
    """Where something lies over /proc no full sandbox is to be had, as in many containers."""
    covered = 'mount -t tmpfs none /proc/bus && exec "$@"'
    words = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", covered, "sh")
    before = set(evaluation_records(world))
    world.file(atom / "data", "of a container")
    inside = world.run(*words, "eka", "eval", str(atom), "-A", "files", "--raw")
    assert (inside.status, inside.out) == (0, b"of a container"), inside.err.decode()
    assert set(evaluation_records(world)) == before
    world.file(atom / "data", "of the host")
    assert evaluate(world, atom, "-A", "files", "--raw").out == b"of the host"
    (record,) = set(evaluation_records(world)) - before
    assert marshal.loads(record.read_bytes())["plan"]["mode"] == "outer"


def test_what_is_kept_is_read_where_nothing_can_be_written(world: World, atom: Path) -> None:
    world.file(atom / "data", "kept here")
    assert evaluate(world, atom, "-A", "files", "--raw").out == b"kept here"
    bound = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    words = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", bound)
    # Other words, so that it is not the printed answer that is found.
    asked = ("eka", "eval", str(atom), "--attr=files", "--raw")
    done = world.run(*words, str(world.place / "cache"), *asked)
    assert (done.status, done.out) == (0, b"kept here"), done.err.decode()


def evaluation_records(world: World) -> list[Path]:
    found = (world.place / "cache" / "eka" / "launch").glob("*")
    return [file for file in found if b"eka evaluation record" in file.read_bytes()]


def test_a_new_atom_has_a_value(world: World, box: Path) -> None:
    for words in (["init"], ["new", "tool", "--compose", "nix"]):
        done = world.run("eka", *words, cwd=box)
        assert done.status == 0, done.err.decode()
    done = world.run("eka", "eval", "tool", cwd=box)
    assert json.loads(done.out) == {"text": "hello from tool"}, done.err.decode()
    plan = world.run("eka", "plan", "tool", cwd=box)
    assert (plan.status, plan.out) == (66, b"")
    assert plan.err.startswith(b"error: nothing in the value is a derivation; it has `text`\n")


def test_plain_files_and_old_style_directories(world: World, box: Path) -> None:
    world.file(box / "lib.nix", "{ twice = x: x + x; }")
    world.file(
        box / "default.nix",
        '{ name ? "nobody", system ? "none", cfg }: { text = (import ./lib.nix).twice name; '
        "inherit system; asked = cfg.asked or 1; }",
    )
    done = world.run("eka", "eval", str(box), "--set", "name=ab", "--system", "riscv64-linux")
    assert json.loads(done.out) == {"text": "abab", "system": "riscv64-linux", "asked": 1}
    file = world.run("eka", "eval", f"{box / 'lib.nix'}#twice")
    assert file.status == 66
    assert json.loads(world.run("eka", "eval", f"{box}#text").out) == "nobodynobody"


def test_what_is_no_target(world: World, box: Path) -> None:
    for target, message in (("none", "is not there"), (".", "neither an atom.toml")):
        done = world.run("eka", "eval", target, cwd=box)
        assert done.status == 2
        assert message in done.err.decode()
    done = world.run("eka", "build", cwd=box)
    assert done.status == 2
    assert b"neither an atom.toml" in done.err


def test_cross_systems_and_variants(world: World, atom: Path) -> None:
    manifest = MANIFEST.format(label="tool") + (
        '[config]\ngreeting = "hi"\nport = 1\n[variants.loud]\ngreeting = "HI"\n'
    )
    world.file(atom / "atom.toml", manifest)
    world.file(
        atom / "default.nix",
        '{ main = derivation { name = "x"; builder = "/bin/sh"; '
        "system = cfg.platforms.host; inherit (cfg) greeting; }; }",
    )

    def plan(*arguments: str) -> dict[str, str]:
        done = world.run("eka", "plan", str(atom), "--json", *arguments)
        assert done.status == 0, done.err.decode()
        found: dict[str, str] = json.loads(done.out)
        return found

    plain, cross, loud = plan(), plan("--host-system", "aarch64-linux"), plan("--variant", "loud")
    assert cross["system"] == "aarch64-linux"
    assert len({one["drvPath"] for one in (plain, cross, loud)}) == 3
    assert len({one["configHash"] for one in (plain, cross, loud)}) == 3
    assert len({one["artifactId"] for one in (plain, cross, loud)}) == 3
    same = plan("--set", "greeting=HI")
    assert {k: same[k] for k in ("drvPath", "configHash")} == {
        k: loud[k] for k in ("drvPath", "configHash")
    }
    other = plan("--set", "port=2")
    assert other["drvPath"] == plain["drvPath"]
    assert other["configHash"] != plain["configHash"]


def test_another_place_and_environment_give_the_same_plan(
    world: World, box: Path, atom: Path
) -> None:
    copied = world.directory(f"{atom.parent.name}/elsewhere/deep")
    assert world.run("cp", "-a", str(atom), str(copied)).status == 0
    assert world.run("git", "init", "-q", cwd=copied / "tool").status == 0
    first = world.run("eka", "plan", str(atom), "--json")
    environment = {
        "LANG": "C",
        "TZ": "Asia/Tokyo",
        "NIX_PATH": "nixpkgs=/x",
        "NIX_REMOTE": "daemon",
    }
    second = world.run(
        "eka", "plan", "--json", "--store", str(copied / "store"), cwd=copied / "tool",
        env=environment | {"XDG_RUNTIME_DIR": str(box), "XDG_CACHE_HOME": str(copied / "cache")},
    )  # fmt: skip
    assert second.status == 0, second.err.decode()
    assert json.loads(first.out) == json.loads(second.out)


def test_a_value_that_has_to_be_built_first(world: World, box: Path) -> None:
    world.file(
        box / "default.nix",
        '{ value = (import (derivation { name = "made.nix"; system = builtins.currentSystem; '
        'builder = "/bin/sh"; args = [ "-c" "echo \'{ x = 42; }\' > $out" ]; })).x; }',
    )
    done = world.run("eka", "eval", f"{box}#value")
    assert (done.status, done.out) == (0, b"42\n"), done.err.decode()
