"""The models agree with the official schema, keep everything, and say what is wrong where."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.errors import SpecError
from eka_runtime.oci.spec import MAX_SIZE, Mount, Root, Spec, load_spec
from eka_runtime.oci.spec_base import InvalidSpec, Problem
from tests.unit.oci.official import GOOD, accepts, documents

NAMES = st.text(max_size=4)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def problems(data: object) -> list[str]:
    with pytest.raises(InvalidSpec) as caught:
        Spec.from_json(json.dumps(data))
    return [str(problem) for problem in caught.value.problems]


def test_there_are_good_fixtures() -> None:
    assert {file.name for file in GOOD} >= {"spec-example.json", "minimal.json", "linux-rdma.json"}


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_good_fixture_comes_back_unchanged(file: Path) -> None:
    data = file.read_bytes()
    assert json.loads(Spec.from_json(data).to_json()) == json.loads(data)


@settings(deadline=None)
@given(documents())
def test_whatever_the_official_schema_describes_comes_back_unchanged(data: Any) -> None:
    assert accepts(data)
    assert json.loads(Spec.from_json(json.dumps(data)).to_json()) == data


@settings(deadline=None)
@given(documents(), st.dictionaries(st.text(min_size=1, max_size=4).map("x-".__add__), JSON))
def test_unknown_fields_are_kept_everywhere(data: Any, extra: dict[str, Any]) -> None:
    for place in _objects(data):
        place.update(extra)
    # Objects whose values are all of one type know no unknown field.
    if accepts(data):
        assert json.loads(Spec.from_json(json.dumps(data)).to_json()) == data


@settings(deadline=None)
@given(documents(), st.data())
def test_the_models_judge_as_the_official_schema_does(data: Any, draw: st.DataObject) -> None:
    """One value anywhere is replaced by another kind of value: both accept, or both refuse."""
    places = list(_places(data))
    holder, key = draw.draw(st.sampled_from(places))
    holder[key] = draw.draw(
        st.sampled_from([None, True, 0, -1, 2**70, 1.5, "", "word", [], [None], {}, {"a": 1}])
    )
    text = json.dumps(data)
    if accepts(data):
        assert json.loads(Spec.from_json(text).to_json()) == data
    else:
        with pytest.raises(InvalidSpec) as caught:
            Spec.from_json(text)
        assert all(problem.path.startswith(".") for problem in caught.value.problems)


def _objects(data: Any) -> list[dict[str, Any]]:
    if isinstance(data, dict):
        return [data, *(found for value in data.values() for found in _objects(value))]
    return [found for value in data for found in _objects(value)] if isinstance(data, list) else []


def _places(data: Any) -> list[tuple[Any, Any]]:
    if not isinstance(data, dict | list):
        return []
    keys = list(data) if isinstance(data, dict) else list(range(len(data)))
    return [(data, key) for key in keys] + [place for key in keys for place in _places(data[key])]


def test_canonical_form() -> None:
    spec = Spec.from_json(b'{"root":{"readonly":true,"path":"r\\u00e9"},"ociVersion":"1.0.2"}')
    lines = ("{", '  "ociVersion": "1.0.2",', '  "root": {', '    "path": "ré",')
    rest = ('    "readonly": true', "  }", "}", "")
    assert spec.to_json().decode().split("\n") == [*lines, *rest]


@settings(deadline=None)
@given(documents())
def test_canonical_form_is_canonical(data: Any) -> None:
    shuffled = json.loads(json.dumps(data, sort_keys=True))
    first = Spec.from_json(json.dumps(data)).to_json()
    assert Spec.from_json(json.dumps(shuffled)).to_json() == first
    assert Spec.from_json(first).to_json() == first


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mounts": [{"destination": "/a", "options": [3]}]},
         ".mounts[0].options[0]: expected string, got integer"),
        ({"mounts": [{"options": []}]}, ".mounts[0].destination: required field is missing"),
        ({"hostname": None}, ".hostname: expected string, got null"),
        ({"process": {"cwd": "/", "user": {"uid": 2**32}}},
         ".process.user.uid: must be at most 4294967295"),
        ({"process": {"cwd": "/", "user": {"uid": 1.0}}},
         ".process.user.uid: expected integer, got number"),
        ({"process": {"cwd": "/", "noNewPrivileges": 1}},
         ".process.noNewPrivileges: expected boolean, got integer"),
        ({"process": {"cwd": "/", "args": "sh"}}, ".process.args: expected array, got string"),
        ({"process": []}, ".process: expected object, got array"),
        ({"process": {"cwd": "/", "rlimits": [{"type": "nofile", "soft": 1, "hard": 1}]}},
         ".process.rlimits[0].type: must match `^RLIMIT_[A-Z]+$`"),
        ({"annotations": {"a b": 1}}, '.annotations["a b"]: expected string, got integer'),
        ({"linux": {"resources": {"rdma": {"x": {"hcaHandles": True}}}}},
         ".linux.resources.rdma.x.hcaHandles: expected integer, got boolean"),
        ({"linux": {"rootfsPropagation": "rslave"}},
         ".linux.rootfsPropagation: expected 'private', 'shared', 'slave' or 'unbindable'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(changes: dict[str, Any], problem: str) -> None:
    assert problems({"ociVersion": "1.0.2", **changes}) == [problem]


def test_all_mistakes_are_listed_and_the_message_shows_the_first() -> None:
    with pytest.raises(InvalidSpec, match=r"^\.hostname: .* \(and 1 more\)$") as caught:
        Spec.from_json(b'{"ociVersion":"1","hostname":1,"domainname":2}')
    assert [problem.path for problem in caught.value.problems] == [".hostname", ".domainname"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not valid JSON: "),
        (b"[]", "expected object, got array"),
        (b'{"ociVersion":"1","x":NaN}', "not valid JSON: NaN"),
        (b'{"ociVersion":"1","x":1e999}', "not valid JSON: 1e999 is not a finite number"),
        (b'{"ociVersion":"1","ociVersion":"2"}', "key `ociVersion` occurs twice"),
        (b'{"ociVersion":"1","x":{"a":1,"a":1}}', "key `a` occurs twice"),
        (b"[" * 100_000, "not valid JSON: nested too deeply"),
        (b'{"ociVersion":' + b"1" * 10_000 + b"}", "not valid JSON: "),
        (b'{"ociVersion":"\\ud800"}', "invalid JSON: "),
        (b'{"ociVersion":"\xff"}', "not valid JSON: "),
    ],
)
def test_hostile_bytes_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Spec.from_json(data)
    assert str(caught.value).lower().startswith(reason.lower())


def test_text_that_is_not_utf8_cannot_be_written() -> None:
    spec = Spec(ociVersion="1.0.2", mounts=(Mount(destination="/a", source="/caf\udce9"),))
    with pytest.raises(SpecError, match="not UTF-8") as caught:
        spec.to_json()
    assert caught.value.hint is not None


def test_a_field_can_be_replaced_or_removed() -> None:
    spec = Spec(ociVersion="1.0.2", hostname="a", root=Root(path="rootfs"))
    assert spec.replace(hostname="b", root=None).to_data() == {
        "ociVersion": "1.0.2",
        "hostname": "b",
    }
    assert spec.hostname == "a"


def test_a_field_that_is_set_to_none_is_left_out() -> None:
    assert Spec(ociVersion="1.0.2", hostname=None) == Spec(ociVersion="1.0.2")


def test_unknown_and_missing_fields_are_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="Spec: unknown or missing: hostnames, ociVersion"):
        Spec(hostnames="a")


def test_models_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="cannot be changed"):
        Spec(ociVersion="1.0.2").hostname = "a"


def test_specs_are_read_from_a_directory_or_a_file(tmp_path: Path) -> None:
    data = b'{"ociVersion": "1.0.2"}'
    (tmp_path / "config.json").write_bytes(data)
    assert load_spec(tmp_path) == load_spec(tmp_path / "config.json") == Spec.from_json(data)


def test_a_missing_or_oversized_file_is_a_spec_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        load_spec(tmp_path)
    with (tmp_path / "config.json").open("wb") as stream:
        stream.truncate(MAX_SIZE + 1)
    with pytest.raises(SpecError, match="larger than 16 MiB"):
        load_spec(tmp_path)


def test_extra_names_that_collide_with_python_are_only_data() -> None:
    data = {"ociVersion": "1", "__class__": 1, "model_config": {}, "to_json": None, "replace": []}
    assert Spec.from_json(json.dumps(data)).to_data() == copy.deepcopy(data)


def test_problem_without_a_place_is_its_message() -> None:
    assert str(Problem("", "broken")) == "broken"
