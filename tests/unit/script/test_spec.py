"""What spec/ says about scripts and exit codes is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import tomlkit

from eka.script import metadata, schema
from eka.script.flags import FLAGS
from eka.script.header import parse_header
from eka.script.metadata import KEYS
from eka_runtime.errors import EkaError

SPEC = Path(__file__).parents[3] / "spec"


def subclasses(base: type[EkaError]) -> list[type[EkaError]]:
    below = [found for direct in base.__subclasses__() for found in subclasses(direct)]
    return [base, *below]


def exit_code_rows() -> list[tuple[int, str]]:
    text = (SPEC / "exit-codes.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| (?:`(\w+)`)? ?\| .+ \|$", text, re.MULTILINE)
    return [(int(code), name) for code, name in rows]


def test_every_error_is_listed_with_its_code() -> None:
    errors = [error for error in subclasses(EkaError) if error.__module__ == EkaError.__module__]
    listed = [(code, name) for code, name in exit_code_rows() if name]
    assert sorted(listed) == sorted((error.exit_code, error.__name__) for error in errors)


def test_exit_codes_are_listed_in_order() -> None:
    codes = [code for code, _ in exit_code_rows()]
    assert codes == sorted(codes)
    assert {0, 70, 130, 141} <= set(codes)


def test_errors_are_declared_in_one_module() -> None:
    # Elsewhere they would miss in the table above, and codes could clash unseen. What merely
    # carries more than its parent may be where it is raised.
    ours = [error for error in subclasses(EkaError) if error.__module__.startswith("eka")]
    coded = [error for error in ours if "exit_code" in vars(error)]
    assert {error.__module__ for error in coded} == {"eka_runtime.errors"}


def test_the_tree_in_the_docstring_is_current() -> None:
    import eka_runtime.errors

    tree = re.findall(r"^ {4}[│├└─ ]*(\w+) (\d+)", eka_runtime.errors.__doc__ or "", re.MULTILINE)
    errors = [error for error in subclasses(EkaError) if error.__module__ == EkaError.__module__]
    assert sorted((name, int(code)) for name, code in tree) == sorted(
        (error.__name__, error.exit_code) for error in errors
    )


def test_the_exported_schemas_are_current() -> None:
    assert schema.SPEC == SPEC
    for name, text in schema.schemas().items():
        assert (SPEC / name).read_text("utf-8") == text, "run `make schemas`"


@pytest.mark.parametrize(
    ("toml", "valid"),
    [
        ("", True),
        ('interpreter = "sh"\npackages = ["a"]\nnetwork = true\nenv = ["A=1"]', True),
        ("pakages = []", False),
        ("packages = [1]", False),
        ('packages = [""]', False),
        ('env = ["1A"]', False),
        ("network = 1", False),
    ],
)
def test_the_schema_agrees_with_the_model(toml: str, valid: bool) -> None:
    document = tomlkit.loads(toml).unwrap()
    validator = jsonschema.Draft202012Validator(metadata.schema())
    assert validator.is_valid(document) is valid


def examples() -> list[str]:
    text = (SPEC / "script.md").read_text("utf-8")
    return re.findall(r"^```\w+\n(#!.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_examples_are_headers() -> None:
    block, lines = (parse_header(example.encode(), "f") for example in examples())
    assert block.metadata is not None
    assert block.metadata.interpreter == "python3"
    assert len(block.block.packages) == 2
    assert [item.value for item in lines.lines.packages] == ["./bash", "./coreutils"]
    assert lines.lines.network_origin


def test_every_key_and_flag_is_described() -> None:
    text = (SPEC / "script.md").read_text("utf-8")
    for key in KEYS:
        assert f"\n| `{key}` |" in text
    for flag in FLAGS:
        assert not flag.in_script or f"`{flag.long}" in text
