"""The committed JSON Schemas are those of the shapes, and agree with the parsers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tomli
from jsonschema import Draft202012Validator

from eka.atom import schema
from tests.unit.atom.vectors import VECTORS


@pytest.mark.parametrize("name", sorted(schema.schemas()))
def test_the_committed_schema_is_current(name: str) -> None:
    text = (schema.SPEC / name).read_text("utf-8")
    assert text == schema.schemas()[name], "run `make schemas`"
    Draft202012Validator.check_schema(json.loads(text))


CASES = [
    *(("atom-manifest", case) for case in VECTORS["manifests"]),
    *(("atom-set", case) for case in VECTORS["ekala_toml"]),
    *(("atom-lock", case) for case in VECTORS["locks"]),
]
# What one table says about another, and grammars beyond regular expressions, are the parsers'.
BEYOND = ("invalid start", "undeclared", "static atoms", "no variant matches", "invalid req", "tag")


@pytest.mark.parametrize(("name", "case"), CASES, ids=lambda value: str(value)[:40])
def test_the_schema_agrees_with_the_parser(name: str, case: dict[str, Any]) -> None:
    validator = Draft202012Validator(schema.json_schema(f"{name}.schema.json"))
    taken = validator.is_valid(tomli.loads(case["toml"]))
    if case["accept"]:
        assert taken
    elif taken:
        why = case.get("why", case.get("name", ""))
        assert any(words in why for words in (*BEYOND, "same label", "bad name"))


def test_extensions_are_marked() -> None:
    properties = schema.json_schema("atom-manifest.schema.json")["properties"]
    marked = {key for key, value in properties.items() if "x-eka-extension" in value}
    assert marked == {"systems", "config", "variants", "build"}
