"""Commands that need no network stay quick: what takes long to import is not imported for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.atom.repos import Repo, atom_toml

HEAVY = ("pydantic", "urllib3", "rich", "tomlkit", "sqlite3", "asyncio", "concurrent.futures")
HEAVY += ("tarfile", "eka.atom.archive", "eka.atom.download", "ctypes")
PROGRAM = """
import sys
from eka.cli import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(*(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


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
    ],
)
def test_nothing_heavy_is_imported(place: Path, command: list[str]) -> None:
    Repo(place).write(
        {"ekala.toml": '[set]\npackages = ["foo"]\n', "foo/atom.toml": atom_toml("foo")}
    )
    done = subprocess.run(
        [sys.executable, "-m", "eka", "-q", "resolve", "foo"], cwd=place, check=True, text=True
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(heavy=HEAVY), "-q", *command],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip() == ""
