"""Finds where the keys and values of a TOML text stand, which tomli does not tell.

Constraint: the text has been accepted by tomli already, so this only has to step over strings,
comments and brackets; it checks nothing. Knows top-level keys and the elements of their arrays, as
deep as script headers go.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import tomli

_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:""|")?'
    r"|'''.*?'''(?:''|')?"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^\s\"'#,\[\]{}]+")


class Located(NamedTuple):
    """Character offsets of a top-level key, its value, and that value's elements if an array."""

    key: int
    value: int
    elements: tuple[int, ...] = ()


def locate(text: str) -> dict[str, Located]:
    """Every top-level key; the start of a dotted key or a table stands where it first is."""
    found: dict[str, Located] = {}
    at = _skip(text, 0)
    inside_table = False
    while at < len(text):
        if text[at] == "[":
            inside_table = True
            start = _skip(text, at + (2 if text.startswith("[[", at) else 1))
            key, _ = _key(text, start)
            found.setdefault(key, Located(start, start))
            at = _end_of_line(text, at)
        else:
            key, value = _key(text, at)
            elements, end = _value(text, value)
            if not inside_table:
                found.setdefault(key, Located(at, value, elements))
            at = end
        at = _skip(text, at)
    return found


def _key(text: str, at: int) -> tuple[str, int]:
    """The first part of a dotted key, and where what follows `=` begins (or the header's `]`)."""
    first = None
    while match := _KEY.match(text, at):
        first = match[0] if first is None else first
        at = _skip(text, match.end())
        if not text.startswith(".", at):
            break
        at = _skip(text, at + 1)
    return _plain_key(first or ""), _skip(text, at + 1)


def _plain_key(written: str) -> str:
    if written[:1] not in ('"', "'"):
        return written
    (key,) = tomli.loads(f"{written} = 0")
    return key


def _value(text: str, at: int) -> tuple[tuple[int, ...], int]:
    """Offsets of the elements if an array is at `at`, and the end of the value's last line."""
    is_array = text.startswith("[", at)
    elements: list[int] = []
    depth, expect = 0, is_array
    while at < len(text):
        char = text[at]
        if char in "[{":
            if depth == 1 and expect:
                elements.append(at)
                expect = False
            depth += 1
            at += 1
        elif char in "]}":
            depth -= 1
            at += 1
        elif char == ",":
            expect = is_array and depth == 1
            at += 1
        else:
            if depth == 1 and expect:
                elements.append(at)
                expect = False
            at = _scalar_end(text, at)
        if depth == 0:
            break
        at = _skip(text, at)
    return tuple(elements), _end_of_line(text, at)


def _scalar_end(text: str, at: int) -> int:
    match = _STRING.match(text, at) or _PLAIN.match(text, at)
    return match.end() if match else at + 1


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at
