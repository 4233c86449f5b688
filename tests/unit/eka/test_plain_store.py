"""Which lines of `eka store` are done without click."""

from __future__ import annotations

from functools import partial

import pytest

from eka.commands import storing
from eka.plain_store import action_of


@pytest.mark.parametrize(
    ("words", "action", "arguments"),
    [
        (["add", "a", "b"], storing.add, {"paths": ["a", "b"]}),
        (["import"], storing.import_stream, {"file": "-"}),
        (["import", "f"], storing.import_stream, {"file": "f"}),
        (["export", "p"], storing.export, {"paths": ["p"], "closure": False}),
        (["export", "p", "--closure"], storing.export, {"paths": ["p"], "closure": True}),
        (["verify"], storing.verify, {"deep": False}),
        (["verify", "--deep"], storing.verify, {"deep": True}),
    ],
)
def test_plain_lines_are_taken(
    words: list[str], action: object, arguments: dict[str, object]
) -> None:
    found = action_of(words)
    assert isinstance(found, partial)
    assert (found.func, found.keywords) == (action, arguments)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "add",
        "add --flat a",
        "add --name=x a",
        "add -- a",
        "import a b",
        "import -",
        "export",
        "export --closure",
        "export --json p",
        "verify x",
        "verify --deep --repair",
        "verify --store s",
        "list",
    ],
)
def test_others_are_left_to_click(line: str) -> None:
    assert action_of(line.split()) is None


def test_an_empty_word_is_no_path() -> None:
    assert action_of(["add", ""]) is None
