"""`--json` of commands on atoms is what spec/ says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from eka.atom.schema import SPEC
from tests.unit.atom.repos import Repo

SCHEMA = json.loads((SPEC / "atom-output.schema.json").read_text("utf-8"))


def records(place: Path, *words: str, status: int = 0) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-m", "eka", *words, "--json"],
        cwd=place,
        capture_output=True,
        check=False,
    )
    assert done.returncode == status, done.stderr.decode()
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found
    return found


def test_every_line_is_as_specified(published: Repo) -> None:
    here = published.path
    for kind, words, status in (
        ("init", ["init"], 0),
        ("new", ["new", "foo", "--compose", "nix"], 0),
        ("lock", ["add", "-p", "foo", "::bar"], 0),
        ("lock", ["resolve", "foo", "--check"], 0),
        ("version", ["list"], 0),
        ("version", ["list", "../far.git"], 0),
        ("publication", ["publish", "bar", "--no-verify"], 0),
        ("finding", ["verify", "foo", "--offline"], 0),
        ("finding", ["verify", "../far.git::bar"], 0),
        ("atom", ["atom", "id", "foo"], 0),
        ("uri", ["uri", "parse", "::foo"], 0),
        ("uri", ["uri", "parse", "gh:o/r::foo@1"], 0),
        ("manifest", ["manifest", "check", "foo"], 0),
        ("set", ["manifest", "check", "ekala.toml"], 0),
        ("check", ["lock-file", "check", "foo"], 0),
        ("lock", ["remove", "-p", "foo", "bar"], 0),
    ):
        validator = Draft202012Validator({"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{kind}"})
        for record in records(here, *words, status=status):
            validator.validate(record)
            Draft202012Validator(SCHEMA).validate(record)


@pytest.mark.parametrize("record", [{}, {"lock": 1}, {"set": "x", "done": [], "more": 1}])
def test_the_schema_refuses_what_is_none_of_them(record: object) -> None:
    assert not Draft202012Validator(SCHEMA).is_valid(record)
