"""Commands on atoms: those without network against Python and click alone, listings against git.

The listing is of a set with 1 000 published versions; `git ls-remote` prints the same refs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.bench.measure import Contender, race, report
from tests.unit.atom.repos import Repo, atom_toml, git_settings

ROUNDS = 15
VERSIONS = 1000
_EKA = [sys.executable, "-m", "eka"]
_CLICK = "python and click"
_GIT = "git ls-remote"


def run() -> list[object]:
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        place = Path(name)
        with git_settings(place):
            _make(place)
            return [_offline(place), _listing(place)]


def _offline(place: Path) -> object:
    commands = {
        "uri parse": ["uri", "parse", "gh:o/r::x@^1"],
        "manifest check": ["manifest", "check", "foo"],
        "list": ["list"],
        "resolve": ["resolve", "foo", "--check", "--offline"],
    }
    cwd = os.fspath(place / "here")
    peer = Contender(_CLICK, [sys.executable, "-c", "import click"], cwd=cwd)
    ours = [Contender(f"eka {name}", [*_EKA, *words], cwd=cwd) for name, words in commands.items()]
    return report("without network", race([peer, *ours], rounds=ROUNDS), [_CLICK])


def _listing(place: Path) -> object:
    far = os.fspath(place / "far.git")
    contenders = [
        Contender(_GIT, ["git", "ls-remote", "-q", far, "refs/eka/atoms/*"]),
        Contender("eka list", [*_EKA, "list", far]),
    ]
    return report(f"{VERSIONS} versions", race(contenders, rounds=ROUNDS), [_GIT])


def _make(place: Path) -> None:
    far = Repo.make(place / "far.git", bare=True)
    here = Repo.make(place / "here")
    commit = here.commit({
        "ekala.toml": '[set]\npackages = ["foo", "bar"]\n',
        "foo/atom.toml": atom_toml(
            "foo", more='[deps.from.here]\nbar = "*"\n', sets='[package.sets]\nhere = "::"\n'
        ),
        "bar/atom.toml": atom_toml("bar"),
    })  # fmt: skip
    here.git("push", "--quiet", "../far.git", "HEAD:refs/ekala/init")
    creates = [f"create refs/eka/atoms/foo/1.{n}.0 {commit}\n" for n in range(VERSIONS)]
    far.git("update-ref", "--stdin", data="".join(creates).encode())
    race([Contender("resolve", [*_EKA, "resolve", "foo"], cwd=os.fspath(here.path))], rounds=1)
