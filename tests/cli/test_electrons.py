"""Sources of a set's own repository, from a commit to a program that was built of them.

By the command line only, as one user, who is not root where root runs the tests.
"""

from __future__ import annotations

import json
import zlib

from tests.cli.test_atom_programs import desk, new_atom, publish, write
from tests.cli.test_atoms import Desk, make_set

__all__ = ["desk"]  # a fixture

SET = '[set]\npackages = ["tool"]\n\n[metadata]\ntags = []\n\n[build.sources]\ncode = "src"\n'
TOOL = '[compose.as]\nnix = "."\n[build]\nsources = ["code"]\n'
BUILDS = """
{
  words = builtins.readFile "${deps.sources.code.src}/words";
  lib = deps.sources.code.import "lib";
  main = derivation {
    name = "tool";
    system = cfg.platforms.build;
    builder = "/bin/sh";
    inherit (deps.sources.code) src;
    args = [ "-c" "mkdir -p $out/bin; cd $out/bin; cat $src/tool $src/words > tool; chmod +x *" ];
    PATH = "/bin:/usr/bin";
  };
}
"""
USER = "{ inherit (deps.from.one.tool) main words lib; }"


def make_tool(desk: Desk) -> str:
    """A set with an atom that is built of `src`, which is no part of it; not published yet."""
    desk.ok(".", "mkdir", "far")
    url = f"file://{desk.place}/far/one.git"
    make_set(desk, "one", url)
    write(desk, {
        "one/ekala.toml": SET,
        "one/tool/atom.toml": new_atom("tool", TOOL),
        "one/tool/default.nix": BUILDS,
        "one/src/words": "echo first\n",
        "one/src/lib/default.nix": '"a library"',
        "one/src/tool": "#!/bin/sh\n",
    })  # fmt: skip
    desk.git("one", "add", "--all")
    desk.git("one", "commit", "--quiet", "-m", "tool")
    desk.eka("one", "resolve", "--all")
    return url


def make_user(desk: Desk, url: str) -> None:
    """Another repository, with an atom that has the tool."""
    desk.eka(".", "init", "app", "--git")
    sets = f'[package.sets]\none = "{url}"\n'
    write(desk, {
        "app/ekala.toml": '[set]\npackages = ["app"]\n\n[metadata]\ntags = []\n',
        "app/app/atom.toml": new_atom(
            "app", f'{sets}[compose.as]\nnix = "."\n[deps.from.one]\ntool = "^1"\n'
        ),
        "app/app/default.nix": USER,
    })  # fmt: skip
    desk.eka("app/app", "resolve", ".")


def test_a_program_is_built_of_its_own_repository(desk: Desk) -> None:
    make_tool(desk)
    # Of the commit, so neither what was not committed nor a remote is asked.
    write(desk, {"one/src/words": "echo later\n"})
    desk.ok(".", "mv", "far", "away")
    assert desk.eka("one", "eval", "--offline", "tool", "-A", "words", "--raw") == "echo first\n"
    assert json.loads(desk.eka("one", "eval", "tool", "-A", "lib")) == "a library"
    assert desk.eka("one", "run", "tool") == "first\n"
    desk.git("one", "commit", "--quiet", "-am", "words")
    assert desk.eka("one", "run", "tool") == "first\n"
    desk.eka("one", "resolve", "tool")
    assert desk.eka("one", "eval", "tool", "-A", "words", "--raw") == "echo later\n"
    assert desk.eka("one", "run", "tool") == "later\n"


def test_a_program_is_built_of_what_another_set_published(desk: Desk) -> None:
    url = make_tool(desk)
    publish(desk, "one")
    make_user(desk, url)
    assert desk.eka("app/app", "eval", "-A", "words", "--raw") == "echo first\n"
    plan = json.loads(desk.eka("app/app", "plan", "--json"))
    assert desk.eka("app/app", "build", "--no-link").strip() == plan["outputs"]["out"]
    assert desk.eka("app/app", "run", ".") == "first\n"
    assert desk.eka(".", "run", f"{url}::tool") == "first\n"
    # The same source makes the same program, whoever has it.
    assert json.loads(desk.eka("one", "plan", "--json", "tool"))["outputs"] == plan["outputs"]
    write(desk, {"one/src/words": "echo second\n"})
    desk.git("one", "commit", "--quiet", "-am", "words")
    desk.replace("one/tool/atom.toml", "1.0.0", "1.1.0")
    publish(desk, "one")
    assert desk.eka("app/app", "run", ".") == "first\n"
    desk.eka("app/app", "resolve", ".", "--upgrade", "tool")
    assert desk.eka("app/app", "run", ".") == "second\n"
    # Nobody serves it any more; what was fetched is enough for another store.
    desk.ok(".", "mv", "far", "away")
    desk.env["EKA_STORE"] = f"{desk.place}/other"
    assert desk.eka("app/app", "eval", "--offline", "-A", "words", "--raw") == "echo second\n"


def test_another_tree_than_the_locked_one_is_refused(desk: Desk) -> None:
    url = make_tool(desk)
    publish(desk, "one")
    make_user(desk, url)
    tree = desk.git("one", "rev-parse", "HEAD:src")
    ref = f"refs/ekala/ca/{tree}"
    good = desk.git("far/one.git", "rev-parse", ref)
    other = desk.git("far/one.git", "commit-tree", "-m", "source", "HEAD:tool")
    desk.git("far/one.git", "update-ref", ref, other)
    ask = ("eval", "-A", "words", "--raw")
    desk.fails("app/app", 15, f"`code` is another tree on `{url}` than {tree}", *ask)
    desk.git("far/one.git", "update-ref", "-d", ref)
    desk.fails("app/app", 16, ref, *ask)
    desk.fails("app/app", 16, "`code` is not in the cache: offline", *ask, "--offline")
    desk.git("far/one.git", "update-ref", ref, good)
    assert desk.eka("app/app", *ask) == "echo first\n"


def test_what_a_repository_has_is_checked_and_told(desk: Desk) -> None:
    make_tool(desk)
    ask = ("eval", "tool", "-A", "words", "--raw")
    files = (("HEAD:src/words", "blob", b"echo"), ("HEAD:src/lib", "tree", b"fault"))
    for name, kind, old in files:
        oid = desk.git("one", "rev-parse", name)
        place = desk.place / "one/.git/objects" / oid[:2] / oid[2:]
        before = place.read_bytes()
        place.chmod(0o644)
        place.write_bytes(zlib.compress(zlib.decompress(before).replace(old, old.upper())))
        desk.fails("one", 15, f"the {kind} {oid} has another content than its id says", *ask)
        place.write_bytes(before)
    assert desk.eka("one", *ask) == "echo first\n"
    tree = desk.git("one", "rev-parse", "HEAD:src")
    desk.replace("one/tool/atom.lock", tree, "7" * 40)
    desk.fails("one", 16, f"`code`, the tree {'7' * 40}, is neither in this repository", *ask)
    desk.replace("one/tool/atom.toml", '["code"]', '["code", "more"]')
    desk.fails("one", 12, "is stale: it lacks `more`", *ask)
    (desk.place / "one/tool/atom.lock").unlink()
    desk.fails("one", 12, "has no atom.lock", *ask)
