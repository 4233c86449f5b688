"""Which lines of `eka eval` are done without click."""

from __future__ import annotations

import pytest

from eka.plain_eval import Line, split


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], Line()),
        ([".#a"], Line(".#a")),
        (["--json", "t", "-A", "a.b"], Line("t", "a.b", json=True)),
        (["--attr=a", "--raw"], Line(attribute="a", raw=True)),
        (["-A", "--raw"], Line(attribute="--raw")),
        (["-A"], None),
        (["a", "b"], None),
        ([""], None),
        (["-Aa"], None),
        (["--", "a"], None),
        (["--help"], None),
        (["--set", "a=1"], None),
        (["-C", "/"], None),
        (["--offline", "."], None),
    ],
)
def test_only_plain_lines_are_taken(words: list[str], line: Line | None) -> None:
    assert split(words) == line
