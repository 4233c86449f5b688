"""Atoms from their sources to running programs, by the command line only.

Two sets in git, one of them with a composer, and a local one with all three ways to compose; a
file, an archive and a commit besides. As one user, who is not root where root runs the tests.
"""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import blake3
import pytest

from eka.evaluate.canonical import artifact_id
from tests.cli.conftest import open_directory
from tests.cli.test_atoms import Desk, make_set
from tests.http_files import Answer, serve_http
from tests.requirements import require
from tests.users import get_user

COMPOSER = """
root: { extern, config }:
let
  names = [ "main" "text" ];
  mod = builtins.listToAttrs (map (name: {
    inherit name;
    value = scopedImport (extern // { cfg = config; inherit mod; }) (root + "/${name}.nix");
  }) names);
in mod
"""
PROGRAM = """
derivation {
  name = "app-${cfg.package.version}";
  system = cfg.platforms.build;
  builder = "/bin/sh";
  text = mod.text;
  sources = deps.pins.tree.src;
  args = [ "-c" ''
    mkdir -p $out/bin
    { echo '#!/bin/sh'; echo "echo \\"$text\\"; cat $sources/words; exit 7"; } > $out/bin/app
    chmod +x $out/bin/app
  '' ];
  PATH = "/bin:/usr/bin";
}
"""
TEXT = """
builtins.concatStringsSep " " [
  deps.from.tools.speech.greeting
  deps.from.here.words.package.meta.description
  (builtins.readFile deps.pins.note.src)
  (deps.pins.repo.import "lib.nix").name
  (builtins.substring 0 11 deps.get.later.src.drvPath)
]
"""


@pytest.fixture
def desk(eka_bin: Path) -> Iterator[Desk]:
    require("git")
    user = get_user("nosub" if os.geteuid() == 0 else "self")
    with open_directory() as place:
        os.chown(place, user.uid, user.gid)
        made = Desk(user, eka_bin, place)
        made.env["EKA_STORE"] = os.fspath(place / "store")
        made.env["XDG_STATE_HOME"] = os.fspath(place / "state")
        made.env["PATH"] += ":/usr/sbin"
        yield made
        made.eka(".", "store", "verify", "--deep")


def write(desk: Desk, files: dict[str, str | bytes]) -> None:
    for name, data in files.items():
        desk.ok(".", "mkdir", "-p", os.path.dirname(name))
        place = desk.place / name
        place.write_bytes(data.encode() if isinstance(data, str) else data)
        os.chown(place, desk.user.uid, desk.user.gid)


def archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        info = tarfile.TarInfo("top/words")
        info.size = 10
        tar.addfile(info, io.BytesIO(b"from a tar"))
    return made.getvalue()


def new_atom(label: str, rest: str, version: str = "1.0.0") -> str:
    return f'[package]\nlabel = "{label}"\nversion = "{version}"\n{rest}'


def publish(desk: Desk, name: str) -> None:
    desk.eka(name, "resolve", "--all")
    desk.commit(name)
    desk.eka(name, "publish", "--all", "--remote", "origin")


def make_sets(desk: Desk, url: str) -> None:
    """base (a composer), tools (depends on base), app (local: uses both)."""
    desk.ok(".", "mkdir", "far")
    base, tools = f"file://{desk.place}/far/base.git", f"file://{desk.place}/far/tools.git"
    make_set(desk, "base", base)
    make_set(desk, "tools", tools)
    nix = '[compose.as]\nnix = "."\n'
    write(desk, {
        "base/ekala.toml": '[set]\npackages = ["modules", "tone"]\n\n[metadata]\ntags = []\n',
        "base/modules/atom.toml": new_atom("modules", nix),
        "base/modules/default.nix": COMPOSER,
        "base/tone/atom.toml": new_atom("tone", nix),
        "base/tone/default.nix": "word: \"${word}!\"",
    })  # fmt: skip
    publish(desk, "base")
    write(desk, {
        "tools/ekala.toml": '[set]\npackages = ["speech"]\n\n[metadata]\ntags = []\n',
        "tools/speech/atom.toml": new_atom(
            "speech", f'[package.sets]\nbase = "{base}"\n{nix}[deps.from.base]\ntone = "^1"\n'
        ),
        "tools/speech/default.nix": '{ greeting = deps.from.base.tone "hi"; }',
    })  # fmt: skip
    publish(desk, "tools")
    desk.ok(".", "mkdir", "pinned")
    desk.git("pinned", "init", "--quiet")
    write(desk, {"pinned/lib.nix": '{ name = "pinned"; }'})
    desk.git("pinned", "add", "--all")
    desk.git("pinned", "commit", "--quiet", "-m", "lib")
    desk.eka(".", "init", "app", "--git")
    write(desk, {
        "app/ekala.toml": '[set]\npackages = ["app", "words"]\n\n[metadata]\ntags = []\n',
        "app/words/atom.toml": new_atom(
            "words", '[package.meta]\ndescription = "data"\n[compose.as]\nstatic = "config"\n'
        ),
        "app/app/atom.toml": new_atom("app", (
            f'[package.sets]\nbase = "{base}"\ntools = "{tools}"\nhere = "::"\n'
            '[compose.with.modules]\nfrom = "base"\nentry = "src"\n'
            '[deps.from.tools]\nspeech = "^1"\n[deps.from.here]\nwords = "*"\n'
            "[deps.direct.nix]\n"
            f'note = {{ url = "{url}/note.txt" }}\n'
            f'tree = {{ tar = "{url}/tree.tar.gz" }}\n'
            f'later = {{ build = "{url}/note.txt" }}\n'
            f'repo = {{ git = "file://{desk.place}/pinned" }}\n'
        )),
        "app/app/src/main.nix": PROGRAM,
        "app/app/src/text.nix": TEXT,
    })  # fmt: skip
    desk.git("app", "add", "--all")
    desk.git("app", "commit", "--quiet", "-m", "app")
    desk.eka("app/app", "resolve", ".")


def test_from_two_remotes_and_a_local_set_to_a_running_program(desk: Desk) -> None:
    expected = "hi! data a note pinned /nix/store/"
    with serve_http() as server:
        server.put("/note.txt", *[Answer(b"a note")] * 4)
        server.put("/tree.tar.gz", *[Answer(archive())] * 4)
        make_sets(desk, server.url)
        assert desk.eka("app/app", "eval", "--attr", "text", "--raw") == expected
    # From here on nobody serves anything, and git's remotes are gone.
    desk.ok(".", "mv", "far", "away")
    assert json.loads(desk.eka("app/app", "eval", "-A", "text", "--set", "x=1")) == expected
    plan = json.loads(desk.eka("app/app", "plan", "--json"))
    assert plan["drvPath"] == desk.eka("app/app", "plan").strip()
    shown = json.loads(desk.eka("app/app", "config", "show", "--json"))
    assert (plan["artifactId"], plan["configHash"]) == (shown["artifactId"], shown["configHash"])
    built = desk.eka("app/app", "build", "--no-link").strip()
    assert built == plan["outputs"]["out"]
    for target in (".", ".#main", "::app", "::app#main"):
        status, out, _ = desk.run("app/app", "eka", "run", target)
        assert (status, out) == (7, f"{expected}\nfrom a tar")
    shell = desk.user.run(
        ("eka", "shell", "."), env=desk.env, cwd=desk.place / "app/app", input=b"app\n", stdin=None
    )
    assert shell.stdout.decode() == f"{expected}\nfrom a tar"


def test_a_published_atom_runs_by_its_uri(desk: Desk) -> None:
    desk.ok(".", "mkdir", "far")
    url = f"file://{desk.place}/far/one.git"
    make_set(desk, "one", url)
    program = (
        '{ main = derivation { name = "say-${cfg.word}"; system = cfg.platforms.build; '
        'builder = "/bin/sh"; args = [ "-c" "echo \'#!/bin/sh\' > $out; '
        'echo \'echo ${cfg.word}\' >> $out; chmod +x $out" ]; PATH = "/bin"; }; }'
    )
    write(desk, {
        "one/ekala.toml": '[set]\npackages = ["say"]\n\n[metadata]\ntags = []\n',
        "one/say/atom.toml": new_atom(
            "say", '[compose.as]\nnix = "."\n[config]\nword = "one"\n[variants.two]\nword = "two"\n'
        ),
        "one/say/default.nix": program,
    })  # fmt: skip
    publish(desk, "one")
    assert desk.eka(".", "run", f"{url}::say@^1") == "one\n"
    assert desk.eka(".", "run", "--variant", "two", f"{url}::say") == "two\n"
    plan = json.loads(desk.eka(".", "plan", "--json", f"{url}::say"))
    local = json.loads(desk.eka("one", "plan", "--json", "say"))
    # Neither where an atom is fetched from nor the version control around it counts.
    assert {k: plan[k] for k in ("artifactId", "configHash", "outputs")} == {
        k: local[k] for k in ("artifactId", "configHash", "outputs")
    }
    desk.fails(".", 14, "matches no version", "run", f"{url}::say@^2")


def test_a_script_that_uses_an_atom(desk: Desk) -> None:
    write(desk, {
        "work/tool/atom.toml": new_atom("tool", '[compose.as]\nnix = "."\n'),
        "work/tool/default.nix": (
            '{ main = derivation { name = "tool"; system = cfg.platforms.build; '
            'builder = "/bin/sh"; args = [ "-c" "mkdir -p $out/bin; cp ${./tool} $out/bin/tool; '
            'chmod +x $out/bin/tool" ]; PATH = "/bin"; }; }'
        ),
        "work/tool/tool": "#!/bin/sh\necho first\n",
        "work/script": (
            '#!/usr/bin/env eka-run\n# /// eka\n# packages = ["./tool#main"]\n# ///\ntool\n'
        ),
    })  # fmt: skip
    (desk.place / "work/script").chmod(0o755)
    assert desk.ok("work", "./script") == "first\n"
    assert desk.ok("work", "./script") == "first\n"
    write(desk, {"work/tool/tool": "#!/bin/sh\necho second\n"})
    assert desk.ok("work", "./script") == "second\n"
    desk.eka("work", "lock", "script")
    write(desk, {"work/tool/tool": "#!/bin/sh\necho third\n"})
    # The lock says what the package is, until it is renewed.
    assert desk.ok("work", "./script") == "second\n"
    desk.eka("work", "lock", "script")
    assert desk.ok("work", "eka-run", "--locked", "script") == "third\n"
    status, _, err = desk.run("work", "eka", "run", "tool#nothing")
    assert status == 66
    assert "has no `nothing`" in err


def test_a_run_of_an_atom_says_which_it_was(desk: Desk) -> None:
    write(desk, {
        "tool/atom.toml": new_atom("tool", '[compose.as]\nnix = "."\n[config]\nx = 1\n'),
        "tool/default.nix": (
            '{ main = derivation { name = "tool"; system = cfg.platforms.build; '
            'builder = "/bin/sh"; args = [ "-c" "echo \'#!/bin/sh\' > $out; chmod +x $out" ]; '
            'PATH = "/bin"; }; }'
        ),
    })  # fmt: skip
    shown = json.loads(desk.eka(".", "config", "show", "tool", "--set", "x=2", "--json"))
    desk.eka(".", "run", "--record", "--set", "x=2", "./tool")
    (run,) = (json.loads(line) for line in desk.eka(".", "log", "--runs", "--json").splitlines())
    assert run["artifact"] == shown["artifactId"]
    desk.eka(".", "bundle", "create", "-o", "bundle", "./tool")
    config = json.loads(desk.read("bundle/config.json"))
    plain = json.loads(desk.eka(".", "config", "show", "tool", "--json"))
    assert config["annotations"]["dev.eka.artifact"] == plain["artifactId"]
    assert config["annotations"]["dev.eka.config"] == plain["configHash"]
    assert plain["artifactId"] != shown["artifactId"]


def test_a_path_says_whose_output_it_is(desk: Desk) -> None:
    write(desk, {
        "tool/atom.toml": new_atom(
            "tool", '[compose.as]\nnix = "."\n[config]\nname = "x"\nquiet = false\n'
        ),
        "tool/default.nix": (
            '{ main = derivation { name = cfg.name; system = cfg.platforms.build; '
            'builder = "/bin/sh"; outputs = [ "out" "doc" ]; '
            'args = [ "-c" "echo > $doc; echo \'#!/bin/sh\' > $out; chmod +x $out" ]; '
            'PATH = "/bin"; }; }'
        ),
    })  # fmt: skip

    def artifacts(path: str) -> dict[str, dict[str, str]]:
        found = json.loads(desk.eka(".", "store", "info", "--json", path))["artifacts"]
        return {one["artifactId"]: one for one in found}

    outputs = json.loads(desk.eka(".", "plan", "--json", "tool"))["outputs"]
    desk.eka(".", "build", "--no-link", "tool")
    plain, quiet = (
        json.loads(desk.eka(".", "config", "show", "tool", "--set", f"quiet={value}", "--json"))
        for value in ("false", "true")
    )
    (one,) = artifacts(outputs["out"]).values()
    assert artifacts(outputs["doc"]) == {one["artifactId"]: one}
    assert one["artifactId"] == plain["artifactId"]
    assert (one["label"], one["version"]) == ("tool", "1.0.0")
    # What stands there is enough to compute the id anew, and that of the configuration.
    digest = blake3.blake3(plain["canonical"].encode()).digest()
    assert one["configHash"] == f"blake3-{base64.b64encode(digest).decode()}"
    assert artifact_id(one["atom"], one["version"], digest) == one["artifactId"]
    # The configuration changes nothing here, which two artifacts of one path say.
    desk.eka(".", "run", "--set", "quiet=true", "tool")
    assert set(artifacts(outputs["out"])) == {plain["artifactId"], quiet["artifactId"]}
    assert f"{quiet['artifactId']} " in desk.eka(".", "store", "info", outputs["out"])
    assert artifacts(json.loads(desk.eka(".", "plan", "--json", "tool"))["drvPath"]) == {}
