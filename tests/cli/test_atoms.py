"""The life of atoms by the command line only, over real git: three repositories and their mirrors.

As one user, who is not root where root runs the tests: nothing here depends on who it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import open_directory
from tests.git_http import serve_git
from tests.requirements import require
from tests.unit.atom.repos import IDENTITY
from tests.users import User, get_user


class Desk:
    """A user's directory with eka and git; `fails` wants a status and words of the error."""

    def __init__(self, user: User, bin_dir: Path, place: Path) -> None:
        self.user = user
        self.place = place
        config = place / "gitconfig"
        # Whoever runs this may have a network; the locker's home must not be asked.
        config.write_text(f'{IDENTITY}[url "/nowhere/"]\ninsteadOf = https://github.com/\n')
        self.env = {
            "PATH": f"{bin_dir}:/usr/bin:/bin",
            "GIT_CONFIG_GLOBAL": os.fspath(config),
            "GIT_CONFIG_NOSYSTEM": "1",
            "XDG_CACHE_HOME": os.fspath(place / "cache"),
            "XDG_CONFIG_HOME": os.fspath(place / "config"),
        }

    def run(self, where: str, *argv: str) -> tuple[int, str, str]:
        done = self.user.run(argv, env=self.env, cwd=self.place / where)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def ok(self, where: str, *argv: str) -> str:
        status, out, err = self.run(where, *argv)
        assert status == 0, f"{argv}: {out}{err}"
        return out

    def eka(self, where: str, *argv: str) -> str:
        return self.ok(where, "eka", *argv)

    def git(self, where: str, *argv: str) -> str:
        return self.ok(where, "git", *argv).strip()

    def fails(self, where: str, status: int, words: str, *argv: str) -> str:
        found, out, err = self.run(where, "eka", *argv)
        assert found == status, f"{argv}: {found} {out}{err}"
        assert words in err, err
        assert "Traceback" not in err
        return out

    def commit(self, where: str, message: str = "work") -> None:
        self.git(where, "add", "--all")
        self.git(where, "commit", "--quiet", "-m", message)
        self.git(where, "push", "--quiet", "origin", "HEAD")

    def read(self, file: str) -> str:
        return (self.place / file).read_text("utf-8")

    def replace(self, file: str, old: str, new: str) -> None:
        text = self.read(file)
        assert old in text
        place = self.place / file
        place.write_text(text.replace(old, new), "utf-8")


@pytest.fixture
def desk(eka_bin: Path) -> Iterator[Desk]:
    require("git")
    user = get_user("nosub" if os.geteuid() == 0 else "self")
    with open_directory() as place:
        os.chown(place, user.uid, user.gid)
        yield Desk(user, eka_bin, place)


def make_set(desk: Desk, name: str, remote: str) -> None:
    desk.git("far", "init", "--quiet", "--bare", f"{name}.git")
    desk.eka(".", "init", name, "--git")
    desk.git(name, "remote", "add", "origin", remote)
    desk.git(name, "push", "--quiet", "origin", "HEAD")
    desk.eka(name, "init", "--remote", "origin")


def locked(desk: Desk, file: str) -> dict[str, str]:
    """Versions by label, from the text of a lock."""
    found = {}
    for block in desk.read(file).split("[[deps]]")[1:]:
        pairs = dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line)
        found[(pairs.get("label") or pairs["name"]).strip('"')] = pairs.get("version", "").strip(
            '"'
        )
    return found


@pytest.mark.timeout(400)  # some eighty processes, on a machine that may be busy
def test_the_life_of_atoms(desk: Desk) -> None:
    desk.ok(".", "mkdir", "far")
    with serve_git(desk.place / "far", desk.user) as url:
        # lib is served over HTTP, tools from a directory, app has no remote.
        make_set(desk, "lib", f"{url}/lib.git")
        make_set(desk, "tools", f"{desk.place}/far/tools.git")
        desk.eka(".", "init", "app", "--git")
        lib = publish_lib(desk)
        publish_tools(desk, url)
        use_both(desk, url)
        bump(desk)
        mirrors(desk, url, lib)
        tamper(desk, url)


def publish_lib(desk: Desk) -> dict[str, Any]:
    desk.eka("lib", "new", "core", "--compose", "nix")
    desk.eka("lib", "new", "pkgs/extra", "--compose", "nix", "--label", "λ-extra")
    desk.fails("lib", 2, "is not empty", "new", "core")
    desk.fails("lib", 2, "is no atom of the commit", "publish", "core")
    desk.commit("lib")
    planned = desk.eka("lib", "publish", "--all", "--dry-run")
    assert planned.count("\tplanned\n") == 2
    assert desk.eka("lib", "list", "../far/lib.git") == ""
    desk.eka("lib", "publish", "--all")
    rows = [json.loads(line) for line in desk.eka("lib", "publish", "-a", "--json").splitlines()]
    assert [row["state"] for row in rows] == ["published", "published"]
    assert desk.eka(".", "list", "far/lib.git").split()[::3] == ["core", "λ-extra"]
    core: dict[str, Any] = rows[0]
    assert desk.eka("lib", "atom", "id", "core").strip() == core["id"]
    return core


def publish_tools(desk: Desk, url: str) -> None:
    desk.eka("tools", "new", "tool", "--compose", "nix")
    desk.eka("tools", "add", "--path", "tool", f"{url}/lib.git::core")
    assert 'lib = "http' in desk.read("tools/tool/atom.toml")
    assert 'core = "^0.1.0"' in desk.read("tools/tool/atom.toml")
    desk.commit("tools")
    desk.eka("tools", "publish", "tool")


def use_both(desk: Desk, url: str) -> None:
    desk.eka("app", "new", "util", "--compose", "nix", "-V", "0.3.0")
    desk.eka("app", "new", "main", "--compose", "nix")
    for uri in (f"{url}/lib.git::core@^0.1", f"file://{desk.place}/far/tools.git::tool", ".::util"):
        desk.eka("app", "add", "-p", "main", uri)
    assert locked(desk, "app/main/atom.lock") == {
        "core": "0.1.0",
        "tool": "0.1.0",
        "util": "0.3.0-local",
    }
    before = desk.read("app/main/atom.lock")
    desk.eka("app", "resolve", "main", "--check", "--offline")
    desk.fails("app", 14, "has no atom `none`", "add", "-p", "main", f"{url}/lib.git::none")
    desk.fails("app", 14, "matches `^9`", "add", "-p", "main", f"{url}/lib.git::core@^9")
    assert desk.read("app/main/atom.lock") == before
    desk.eka("app", "verify", "main")
    desk.git("app", "add", "-A")
    desk.git("app", "commit", "--quiet", "-m", "app")


def bump(desk: Desk) -> None:
    desk.replace("lib/core/atom.toml", "0.1.0", "0.1.5")
    desk.commit("lib")
    desk.eka("lib", "publish", "core")
    desk.eka("app", "resolve", "main")
    assert locked(desk, "app/main/atom.lock")["core"] == "0.1.0"
    status, _, err = desk.run("app", "eka", "resolve", "main", "--upgrade", "core")
    assert (status, "~ core 0.1.0" in err) == (0, True), err
    assert locked(desk, "app/main/atom.lock")["core"] == "0.1.5"
    desk.replace("app/util/atom.toml", "0.3.0", "0.3.1")
    desk.fails("app", 12, "would change", "resolve", "main", "--check")
    desk.eka("app", "resolve", "main")
    desk.replace("lib/core/atom.toml", "0.1.5", '0.1.5"\n# changed\n#"')
    desk.commit("lib")
    desk.fails("lib", 15, "with other content", "publish", "core")
    desk.eka("app", "remove", "-p", "main", "tool")
    assert "tool" not in desk.read("app/main/atom.toml")


def mirrors(desk: Desk, url: str, core: dict[str, Any]) -> None:
    """One mirror is dead, one lies."""
    desk.replace("app/main/atom.toml", f'"{url}/lib.git"', f'["{url}/gone.git", "{url}/lib.git"]')
    status, _, err = desk.run("app", "eka", "resolve", "main")
    assert (status, "warning" in err) == (0, True), err
    desk.git("far", "clone", "--quiet", "--mirror", "lib.git", "lie.git")
    desk.git("far/lie.git", "update-ref", "refs/eka/atoms/core/0.1.5", core["rev"])
    desk.replace("app/main/atom.toml", f"{url}/gone.git", f"{url}/lie.git")
    before = desk.read("app/main/atom.lock")
    desk.fails("app", 14, "`core` 0.1.5 of `lib` is ", "resolve", "main")
    assert desk.read("app/main/atom.lock") == before
    desk.replace("app/main/atom.lock", f"{url}/gone.git", f"{url}/lie.git")
    out = desk.fails("app", 15, "but", "verify", "main")
    assert f"core 0.1.5 on {url}/lie.git: its ref is {core['rev']}" in out
    for file in ("app/main/atom.toml", "app/main/atom.lock"):
        desk.replace(file, f"{url}/lie.git", f"{url}/gone.git")
    desk.eka("app", "verify", "main")


def tamper(desk: Desk, url: str) -> None:
    far = "far/lib.git"
    right = desk.git(far, "rev-parse", "refs/eka/atoms/core/0.1.5")
    desk.eka("app", "verify", f"{url}/lib.git::core", "--all")
    # A moved ref.
    desk.git(far, "update-ref", "refs/eka/atoms/core/0.1.5", "refs/eka/atoms/core/0.1.0")
    assert "it was moved" in desk.fails("app", 15, "is locked", "verify", "main")
    desk.fails(
        "app", 15, "says that it is `publish(core): 0.1.0`", "verify", f"{url}/lib.git::core"
    )
    desk.git(far, "update-ref", "refs/eka/atoms/core/0.1.5", right)
    # A forged origin.
    origin = desk.git(far, "rev-parse", "refs/eka/meta/core/0.1.5/origin")
    desk.git(far, "update-ref", "refs/eka/meta/core/0.1.5/origin", f"{origin}^")
    desk.fails("app", 15, "its origin ref is", "verify", f"{url}/lib.git::core")
    desk.git(far, "update-ref", "refs/eka/meta/core/0.1.5/origin", origin)
    desk.eka("app", "verify", "main")
    # A wrong id, which is found before anything is asked.
    desk.replace("app/main/atom.lock", 'label = "core"', 'label = "cora"')
    desk.fails("app", 15, "is not that of its set and label", "verify", "main", "--offline")
    desk.fails(
        "app", 12, "is not that of its set and label", "lock-file", "check", "main/atom.lock"
    )


def test_bad_files_are_told_and_nothing_is_written(desk: Desk) -> None:
    desk.eka(".", "init", "set")
    desk.eka("set", "new", "foo", "--compose", "nix")
    desk.replace("set/foo/atom.toml", "0.1.0", "v1")
    before = sorted(os.listdir(desk.place / "set/foo"))
    for command in (
        ["resolve", "foo"],
        ["add", "-p", "foo", "::foo"],
        ["manifest", "check", "foo"],
    ):
        desk.fails("set", 13, "atom.toml:3:11: `package.version`: 'v1' is not a version", *command)
    assert sorted(os.listdir(desk.place / "set/foo")) == before
    desk.fails(".", 2, "is in no package set", "resolve")


def test_a_new_atom_without_network_is_locked_later(desk: Desk) -> None:
    desk.eka(".", "init", "set")
    status, out, err = desk.run("set", "eka", "new", "foo", "--offline", "--json")
    assert (status, json.loads(out)["locked"]) == (0, False), err
    assert "is not locked" in err
    desk.fails("set", 12, "there is no `foo/atom.lock`", "lock-file", "check", "foo")
    assert 'atom = "https://github.com/ekala-project/atom"' in desk.read("set/foo/atom.toml")


def test_plumbing_is_data(desk: Desk) -> None:
    root = "4abbd2644bc3585e9be95deb277ccf48f6ed26ac"
    out = desk.eka(".", "atom", "id", "nix-lock", "--root", root, "--json")
    assert json.loads(out)["id"] == "r3rlam6bd31t9i04ggug7avs8vf8981q7a3b6gobemk1gfs50qm0"
    found = json.loads(desk.eka(".", "uri", "parse", "pkgs::zlib@1", "--json"))
    assert found["uri"] == "https://github.com/nixos/nixpkgs::zlib@^1"
    desk.ok(".", "mkdir", "-p", "config/eka")
    (desk.place / "config/eka/eka.toml").write_text(
        '[uri.aliases]\nwork = "git.example.com:team"\n'
    )
    assert desk.eka(".", "uri", "parse", "work:x::y") == "ssh://git.example.com/team/x::y\n"
    (desk.place / "config/eka/eka.toml").write_text("[uri]\naliases = 1\n")
    desk.fails(".", 11, "eka.toml:2:11: `uri.aliases` must be a table", "uri", "parse", "x::y")


def test_direct_dependencies(desk: Desk) -> None:
    desk.eka(".", "init", "set")
    desk.eka("set", "new", "foo", "--compose", "nix")
    desk.ok(".", "mkdir", "src")
    (desk.place / "src/file.txt").write_text("hello\n")
    desk.ok(".", "tar", "-czf", "src.tar.gz", "src")
    there = f"file://{desk.place}"
    desk.eka("set", "add", "-p", "foo", "direct", "nix", f"{there}/src.tar.gz")
    desk.eka("set", "add", "-p", "foo", "direct", "nix", f"{there}/src/file.txt", "-k", "text")
    desk.eka(
        "set", "add", "-p", "foo", "direct", "nix", f"{there}/src.tar.gz", "--build", "-k", "b"
    )
    manifest = desk.read("set/foo/atom.toml")
    assert f'src.tar = "{there}/src.tar.gz"' in manifest
    assert f'text.url = "{there}/src/file.txt"' in manifest
    assert f'b = {{ build = "{there}/src.tar.gz", unpack = true }}\n' in manifest
    lock = desk.read("set/foo/atom.lock")
    assert [lock.count(f'type = "{kind}"') for kind in ("nix", "nix+tar", "nix+src")] == [1, 1, 1]
    desk.eka("set", "verify", "foo", "--offline")
    (desk.place / "src/file.txt").write_text("changed\n")
    assert "text: " in desk.fails("set", 15, "is locked", "verify", "foo")
    desk.fails(
        "set",
        2,
        "exclude one another",
        "add",
        "direct",
        "nix",
        "x",
        "-p",
        "foo",
        "--git=",
        "--build",
    )
    desk.eka("set", "remove", "-p", "foo", "src", "text", "b")
    assert "deps" not in desk.read("set/foo/atom.toml")
    assert "[[deps]]" not in desk.read("set/foo/atom.lock")
