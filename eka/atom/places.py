"""Finds where every key and value of a TOML text stands, which tomli does not tell.

Constraint: the text has been accepted by tomli already, so this only has to step over strings,
comments and brackets; it checks nothing. Used when there is something to complain about, so it may
take longer than the parser.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import tomli

Path = tuple[str | int, ...]
"""Of a value: keys of tables, indexes of arrays."""

_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:""|")?|\'\'\'.*?\'\'\'(?:\'\'|\')?|"(?:[^"\\]|\\.)*"|\'[^\']*\'',
    re.DOTALL,
)
_PLAIN = re.compile(r"[^\"'#,\[\]{}\n]+")


class Located(NamedTuple):
    """Character offsets; both are the header's for a table that has one."""

    key: int
    value: int


def locate(text: str) -> dict[Path, Located]:
    """Every table, key and element; a dotted key's parts stand where each first is."""
    return _Locator(text).run()


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Both from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


class _Locator:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Path, Located] = {(): Located(0, 0)}
        self.lengths: dict[Path, int] = {}  # of arrays of tables

    def run(self) -> dict[Path, Located]:
        prefix: Path = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                prefix = self._header()
            else:
                self._pair(prefix)
            self._skip(_BLANK)
        return self.found

    def _header(self) -> Path:
        double = self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        parts = self._keys()
        self.at += 2 if double else 1
        path: Path = ()
        for number, (key, offset) in enumerate(parts):
            path = (*path, key)
            last = number == len(parts) - 1
            if last and double:
                self.found.setdefault(path, Located(offset, offset))
                self.lengths[path] = self.lengths.get(path, 0) + 1
            elif last:
                # A table made by `[a.b]` before stands where its own header is.
                self.found[path] = Located(offset, offset)
            if path in self.lengths:
                path = (*path, self.lengths[path] - 1)
            self.found.setdefault(path, Located(offset, offset))
        return path

    def _pair(self, prefix: Path) -> None:
        parts = self._keys()
        self.at += 1  # =
        self._skip(_SPACE)
        path = prefix
        for key, offset in parts:
            path = (*path, key)
            self.found.setdefault(path, Located(offset, self.at))
        self._value(path)

    def _keys(self) -> list[tuple[str, int]]:
        parts = []
        while True:
            self._skip(_SPACE)
            match = _KEY.match(self.text, self.at)
            assert match is not None  # tomli has read it
            parts.append((_plain(match[0]), self.at))
            self.at = match.end()
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def _value(self, path: Path) -> None:
        if self.text[self.at] == "[":
            self._array(path)
        elif self.text[self.at] == "{":
            self._inline_table(path)
        else:
            match = _STRING.match(self.text, self.at) or _PLAIN.match(self.text, self.at)
            self.at = match.end() if match else self.at + 1

    def _array(self, path: Path) -> None:
        self.at += 1
        index = 0
        self._skip(_BLANK)
        while self.text[self.at] != "]":
            self.found[(*path, index)] = Located(self.at, self.at)
            self._value((*path, index))
            index += 1
            self._next()
        self.at += 1

    def _inline_table(self, path: Path) -> None:
        self.at += 1
        self._skip(_BLANK)
        while self.text[self.at] != "}":
            self._pair(path)
            self._next()
        self.at += 1

    def _next(self) -> None:
        self._skip(_BLANK)
        if self.text.startswith(",", self.at):
            self.at += 1
            self._skip(_BLANK)

    def _skip(self, blank: re.Pattern[str]) -> None:
        match = blank.match(self.text, self.at)
        assert match is not None  # it may be empty
        self.at = match.end()


def _plain(written: str) -> str:
    if written[:1] not in ('"', "'"):
        return written
    (key,) = tomli.loads(f"{written} = 0")
    return key
