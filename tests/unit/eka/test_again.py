"""Command lines that a record answers for, and that answering takes no more than it may import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from eka.again import split


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("eval", (["eval"], [])),
        ("eval .#a --json --set x=1", (["eval", ".#a", "--json", "--set", "x=1"], [])),
        ("run .#tool -x --set y", (["run", ".#tool"], ["-x", "--set", "y"])),
        ("run --variant a .#tool", (["run", "--variant", "a", ".#tool"], [])),
        ("run --read=/x .#tool a", (["run", "--read=/x", ".#tool"], ["a"])),
        ("run", None),
        ("run --keep .#tool", None),
        ("run --config-file f .#tool", None),
        ("eval --config-file=f", None),
        ("eval -C / .", None),
        ("eval a b", None),
        ("eval -v", None),
    ],
)
def test_which_lines_are_taken(line: str, found: tuple[list[str], list[str]] | None) -> None:
    words = [word.encode() for word in line.split()]
    wanted = found and tuple([word.encode() for word in part] for part in found)
    assert split(words) == wanted


def test_a_repeated_command_imports_little() -> None:
    code = (
        "import sys, eka.entry; before = set(sys.modules); "
        "eka.entry._attempt(['run', '--keep']); "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed = {"_blake2", "_signal", "fcntl", "marshal", "posix", "eka.again", "eka.warm"}
    assert set(done.stdout.split()) <= allowed
