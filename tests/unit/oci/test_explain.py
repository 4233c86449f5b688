"""Reasons: stored beside config.json, shown as a table or objects, never believed when stale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eka_runtime.errors import SpecError
from eka_runtime.oci.bundle import ShellFiles, compile_bundle, write_bundle
from eka_runtime.oci.explain import KINDS, Reason, arrange, objects, reasons_of_spec, table
from eka_runtime.oci.record import load_reasons, load_record
from eka_runtime.oci.spec import MAX_SIZE, Spec
from tests.unit.oci.official import GOOD
from tests.unit.oci.requests import request

BUNDLE = compile_bundle(request(shell=ShellFiles(None, None)))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_bundle(BUNDLE, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_reasons_survive_on_disk(directory: Path) -> None:
    assert load_reasons(directory) == BUNDLE.reasons
    record = load_record(directory)
    assert record is not None
    assert record.digest == BUNDLE.digest()
    assert record.entries() == BUNDLE.rootfs
    assert [one.name for one in record.passed] == [one.name for one in BUNDLE.passed]


def test_an_edited_config_is_explained_by_itself(directory: Path) -> None:
    edited = BUNDLE.spec.replace(hostname="edited")
    (directory / "config.json").write_bytes(edited.to_json())
    assert load_reasons(directory) == reasons_of_spec(edited)


def test_reformatting_is_not_editing(directory: Path) -> None:
    data = json.loads((directory / "config.json").read_bytes())
    (directory / "config.json").write_text(json.dumps(data))
    assert load_reasons(directory) == BUNDLE.reasons


def test_a_config_without_record_is_explained_by_itself(directory: Path) -> None:
    (directory / "eka.json").unlink()
    from_directory = load_reasons(directory)
    assert from_directory == load_reasons(directory / "config.json")
    assert {reason.origin for reason in from_directory} == {"config.json"}
    mounts = {one.subject for one in from_directory if one.kind == "mount"}
    assert mounts == {one.subject for one in BUNDLE.reasons if one.kind == "mount"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", ".version: required field is missing"),
        ('{"version":2}', ".version: expected 1"),
        ("[]", "expected object"),
        ("{", "json"),
        ("x" * (MAX_SIZE + 1), "larger than"),
    ],
    ids=["empty", "newer", "list", "broken", "large"],
)
def test_a_broken_record_is_refused(directory: Path, text: str, message: str) -> None:
    (directory / "eka.json").write_text(text)
    with pytest.raises(SpecError, match=r"eka\.json") as caught:
        load_reasons(directory)
    assert message.lower() in str(caught.value).lower()


def test_mounts_keep_their_order_and_kinds_theirs() -> None:
    mounts = [Reason("mount", place, "x", "y") for place in ("/b", "/a")]
    env = [Reason("env", name, "x", "y") for name in ("B", "A")]
    arranged = arrange([*env, *mounts])
    assert [one.subject for one in arranged] == ["/b", "/a", "A", "B"]
    kinds = [one.kind for one in BUNDLE.reasons]
    assert kinds == sorted(kinds, key=KINDS.index)


def test_the_table_is_aligned_and_complete() -> None:
    lines = table(BUNDLE.reasons)
    assert len(lines) == len(BUNDLE.reasons) + 1
    column = lines[0].index("ASKED BY")
    row = next(line for line in lines if "/dev/shm" in line)
    assert row[column:].startswith("profile run")
    assert all(line == line.rstrip() for line in lines)


def test_a_long_name_does_not_widen_the_table() -> None:
    short, long = Reason("env", "A", "x", "y"), Reason("env", "A" * 300, "x", "y")
    assert max(map(len, table([short]))) < 100
    assert len(table([short, long])[1]) < 100


def test_objects_are_what_the_schema_says() -> None:
    assert objects(BUNDLE.reasons)[0].keys() == {"kind", "subject", "origin", "detail"}


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_any_config_can_be_explained(file: Path) -> None:
    spec = Spec.from_json(file.read_bytes())
    found = {one.subject for one in reasons_of_spec(spec) if one.kind == "mount"}
    assert found == {mount.destination for mount in spec.mounts or ()}


def test_capabilities_of_a_foreign_config_are_all_named() -> None:
    spec = Spec.from_json(
        '{"ociVersion":"1","process":{"cwd":"/","capabilities":'
        '{"bounding":["CAP_KILL"],"permitted":["CAP_CHOWN","CAP_KILL"],"x-unknown":1}}}'
    )
    (reason,) = (one for one in reasons_of_spec(spec) if one.kind == "capabilities")
    assert reason.detail == "CAP_CHOWN, CAP_KILL"
