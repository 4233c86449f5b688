from __future__ import annotations

import pytest
import tomli
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from eka.script.locate import locate
from eka.script.metadata import KEYS, ScriptMetadata, line_and_column, parse_metadata
from eka.script.stated import Place
from eka_runtime.errors import HeaderError


def place(line: int, column: int) -> Place:
    return Place("f", line, column)


def parse(text: str) -> ScriptMetadata:
    return parse_metadata(text, place)[0]


def fail(text: str) -> HeaderError:
    with pytest.raises(HeaderError) as caught:
        parse(text)
    return caught.value


def test_an_empty_header_states_nothing() -> None:
    assert parse("") == ScriptMetadata()
    assert parse("# only a comment\n\n") == ScriptMetadata()


def test_every_key_is_read() -> None:
    text = """
interpreter = "python3"
packages = ["gh:owner/repo::python@^3", '/nix/store/x']
network = true
read = ["~/data"]
write = ["."]
env = ["API_TOKEN", "A=b=c", "EMPTY="]
"""
    assert parse(text) == ScriptMetadata(
        interpreter="python3",
        packages=("gh:owner/repo::python@^3", "/nix/store/x"),
        network=True,
        read=("~/data",),
        write=(".",),
        env=("API_TOKEN", "A=b=c", "EMPTY="),
        stated=frozenset(("interpreter", "packages", "network", "read", "write", "env")),
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("\n  pakages = []", "f:2:3: unknown key `pakages`", "write `packages`"),
        ('"net work" = 1', "f:1:1: unknown key `net work`", "write `network`"),
        (
            "zzz.y = 1",
            "f:1:1: unknown key `zzz`",
            f"use one of {', '.join(f'`{key}`' for key in KEYS)}",
        ),
        ("read = []\n[[ house ]]\n", "f:2:4: unknown key `house`", None),
        ('"a\\nb" = 1', "f:1:1: unknown key `a\\x0ab`", None),
        (
            "interpreter =  3",
            "f:1:16: `interpreter` must be a string, not an integer",
            'write it as in `interpreter = "python3"`',
        ),
        (
            "network = 'true'",
            'f:1:11: `network` must be true, false, "loopback", "host" or "off", not `true`',
            "write it as in `network = false`",
        ),
        (
            "network = 1",
            'f:1:11: `network` must be true, false, "loopback", "host" or "off", not an integer',
            None,
        ),
        (
            "network = ''",
            'f:1:11: `network` must be true, false, "loopback", "host" or "off", not ``',
            None,
        ),
        (
            "packages = 'x'",
            "f:1:12: `packages` must be a list of strings, not a string",
            'write it as in `packages = ["./result"]`',
        ),
        ("packages = {}", "f:1:12: `packages` must be a list of strings, not a table", None),
        ("[read]\nx = 1", "f:1:2: `read` must be a list of strings, not a table", None),
        ("write.x = 1.5", "f:1:11: `write` must be a list of strings, not a table", None),
        (
            "read = [\n 'a', # ]\n  2026-01-01 10:00:00,\n]",
            "f:3:3: each element of `read` must be a string, not a date or time",
            None,
        ),
        (
            'read = ["a,]\\"", [], 1]',
            "f:1:18: each element of `read` must be a string, not a list",
            None,
        ),
        ("read = ['''\n]''', {a = 1}]", "f:2:7: each element of `read` must be a string", None),
        ("read = [false]", "f:1:9: each element of `read` must be a string, not a boolean", None),
        ("write = ['a', '']", "f:1:15: empty string in `write`", None),
        ('interpreter = "a\\u0000"', "f:1:15: null character in `interpreter`", None),
        (
            "env = ['A', '1A=2']",
            "f:1:13: `1A=2` is not a variable",
            'write it as in `env = ["NAME", "NAME=value"]`',
        ),
        ("env = ['']", "f:1:8: empty string in `env`", None),
        ("read = 1\nnetwork = 1", "f:1:8: `read`", None),
        ("read = [1]\nnetwork = 1", "f:1:9: each element of `read`", None),
        ("read = ]", "f:1:8: the header is not valid TOML: invalid value", None),
        ("a = 1\na = 2", "f:2:6: the header is not valid TOML: cannot overwrite a value", None),
        ("x = " + "[" * 5000, "f:1:1: the header is not valid TOML: ", None),
        ("x = " + "1" * 5000, "f:1:1: the header is not valid TOML: ", None),
        ("x" + ".x" * 5000 + " = 1", "f:1:1: the header is not valid TOML: ", None),
    ],
)
def test_errors_stand_where_the_fault_is(text: str, message: str, hint: str | None) -> None:
    error = fail(text)
    assert str(error).startswith(message)
    if hint is not None:
        assert error.hint == hint


def test_a_long_hostile_key_is_shown_in_part() -> None:
    assert len(str(fail(f'"{"k" * 15000}" = 1'))) < 120


strings = st.text(max_size=12)
scalars = st.one_of(
    strings, st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False), st.datetimes()
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(strings, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(strings, values, max_size=5))
def test_every_key_and_element_is_located(document: dict[str, object]) -> None:
    text = tomlkit.dumps(document)
    found = locate(text)
    parsed = tomli.loads(text)
    assert list(found) == list(parsed)
    for key, value in parsed.items():
        where = found[key]
        if where.value == where.key:
            continue  # written as a table, [key] or [[key]]
        assert reads_as(text[where.value :], value)
        elements = value if isinstance(value, list) else []
        assert len(where.elements) == len(elements)
        for offset, element in zip(where.elements, elements, strict=True):
            assert reads_as(text[offset:], element)


def reads_as(text: str, value: object) -> bool:
    """Whether TOML text begins with a value: what follows it is cut off piece by piece."""
    return any(parses_to(text[:end], value) for end in range(1, len(text) + 1))


def parses_to(text: str, value: object) -> bool:
    try:
        return bool(tomli.loads(f"x = {text}\n")["x"] == value)
    except ValueError:
        return False


TRICKY = {
    'read = ["""a"b\n"c"""", 1]': ['"""a', "1]"],
    "read = ['''a'b\n'c'''', 1]": ["'''a", "1]"],
    'read = ["a\\\\", "\\"]"]': ['"a', '"\\"'],
    "read = [ # [ ' \"\n 1 # ]\n , 2 ]": ["1 #", "2 ]"],
    "read = [[1, 2], {a = [3, 4], b = ']'}, 5]": ["[1", "{a", "5]"],
    "read = [\r\n  1,\r\n  2,\r\n]": ["1,", "2,"],
    'read = ["", """""", \'\', 1]': ['"",', '""""""', "''", "1]"],
}


@pytest.mark.parametrize(("text", "begins"), TRICKY.items(), ids=range(len(TRICKY)))
def test_strings_and_comments_do_not_mislead(text: str, begins: list[str]) -> None:
    tomli.loads(text)
    elements = locate(f"{text}\nafter = 1")["read"].elements
    assert all(text[at:].startswith(begin) for at, begin in zip(elements, begins, strict=True))
    assert "after" in locate(f"{text}\nafter = 1")


def test_lines_and_columns_count_from_one() -> None:
    assert line_and_column("ab\ncd", 0) == (1, 1)
    assert line_and_column("ab\ncd", 2) == (1, 3)
    assert line_and_column("ab\ncd", 3) == (2, 1)
