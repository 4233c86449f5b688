"""The committed JSON Schemas are those of the models, and say the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tomli
from jsonschema import Draft202012Validator

from eka_runtime.oci.bundle import ShellFiles, compile_bundle, write_bundle
from eka_runtime.oci.explain import objects
from eka_runtime.oci.schema import schemas
from tests.unit.oci.official import GOOD
from tests.unit.oci.requests import request

ROOT = Path(__file__).parents[3]


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((ROOT / "spec" / name).read_bytes())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("name", sorted(schemas()))
def test_the_committed_schema_is_current(name: str) -> None:
    hint = "run `python -m eka_runtime.oci.schema`"
    assert json.loads((ROOT / "spec" / name).read_bytes()) == json.loads(schemas()[name]), hint


def test_the_module_writes_them(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eka_runtime.oci.schema", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == schemas()


def test_the_runtime_schema_accepts_the_official_examples() -> None:
    schema = validator("oci-runtime.schema.json")
    for file in GOOD:
        schema.validate(json.loads(file.read_bytes()))
    assert not schema.is_valid({"ociVersion": "1", "hostname": None})
    assert not schema.is_valid({"ociVersion": "1", "mounts": [{}]})


def test_the_profile_schema_accepts_the_built_in_profiles() -> None:
    schema = validator("profile.schema.json")
    for file in (ROOT / "bundles").glob("*.toml"):
        schema.validate(tomli.loads(file.read_text("utf-8")))
    assert not schema.is_valid({"description": "x", "unknown": 1})


def test_records_and_reasons_meet_their_schemas(tmp_path: Path) -> None:
    bundle = compile_bundle(request(shell=ShellFiles(None, None)))
    write_bundle(bundle, tmp_path / "bundle")
    record = json.loads((tmp_path / "bundle/eka.json").read_bytes())
    validator("bundle-record.schema.json").validate(record)
    for line in objects(bundle.reasons):
        validator("explain.schema.json").validate(line)
