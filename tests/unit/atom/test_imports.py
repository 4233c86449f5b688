"""Commands that need no network stay quick: what takes long to import is not imported for them.

Held by names, not by time. Modules that a bare interpreter of this host has already do not count.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.atom.repos import Repo, atom_toml

HEAVY = ("pydantic", "urllib3", "rich", "sqlite3", "asyncio", "concurrent.futures", "logging")
HEAVY += ("tarfile", "eka.atom.archive", "eka.atom.download", "ctypes", "email", "http", "ssl")
HEAVY += ("nacl", "zstandard", "importlib.metadata", "eka_runtime.store")
EDITING = ("tomlkit", "dataclasses")
"""For commands that change a manifest, and no others."""

PROGRAM = """
import sys
before = set(sys.modules)
from eka.cli import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(*(name for name in {heavy!r} if name in sys.modules and name not in before), file=sys.stderr)
"""


def heavy_imports(place: Path, command: list[str], allowed: tuple[str, ...] = ()) -> str:
    heavy = tuple(name for name in (*HEAVY, *EDITING) if name not in allowed)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(heavy=heavy), "-q", *command],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.strip()


@pytest.fixture
def workspace(place: Path) -> Path:
    """A set whose atom `foo` is locked and needs `bar`, another one of it."""
    more, sets = '[deps.from.here]\nbar = "*"\n', '[package.sets]\nhere = "::"\n'
    Repo(place).write({
        "ekala.toml": '[set]\npackages = ["foo", "bar"]\n',
        "foo/atom.toml": atom_toml("foo", more=more, sets=sets),
        "bar/atom.toml": atom_toml("bar"),
    })  # fmt: skip
    command = [sys.executable, "-m", "eka", "-q", "resolve", "foo"]
    subprocess.run(command, cwd=place, check=True, text=True, stdout=subprocess.DEVNULL)
    return place


@pytest.mark.parametrize(
    "command",
    [
        ["uri", "parse", "gh:o/r::x@^1"],
        ["atom", "id", "x", "--root", "0" * 40],
        ["manifest", "check", "foo"],
        ["lock-file", "check", "foo"],
        ["list"],
        ["verify", "foo", "--offline"],
        ["resolve", "foo", "--check"],
        ["resolve", "--all"],
    ],
)
def test_nothing_heavy_is_imported(workspace: Path, command: list[str]) -> None:
    assert heavy_imports(workspace, command) == ""


def test_edits_import_what_keeps_comments_and_nothing_else_that_is_heavy(workspace: Path) -> None:
    repo = Repo.make(workspace / "other")
    commands: list[list[str]] = [["init"], ["new", "a", "--compose", "nix"]]
    commands += [["new", "b", "--compose", "nix"], ["add", "-p", "a", "::b"]]
    commands += [["remove", "-p", "a", "b"]]
    found = [heavy_imports(repo.path, command, EDITING) for command in commands[:3]]
    repo.commit({})
    found += [heavy_imports(repo.path, command, EDITING) for command in commands[3:]]
    assert found == [""] * len(commands)
