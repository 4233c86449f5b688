"""Reads a TOML file that somebody else wrote: bounded, and every complaint says where.

`FILE:LINE:COLUMN: message`, both from 1, columns in characters.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import tomli

from eka.atom.places import Path, line_and_column, locate
from eka.shapes import Problem
from eka_runtime.errors import EkaError

T = TypeVar("T")
SIZE_LIMIT = 1 << 20
"""Of a manifest, in bytes; a lock may have sixteen times as much."""


class Source:
    """One text with the name that messages call it, and the error that is raised about it."""

    def __init__(self, data: bytes, name: str, error: type[EkaError], limit: int) -> None:
        self.name = name
        self._error = error
        if len(data) > limit:
            raise error(f"`{name}` has more than {limit} bytes", hint="is it the right file?")
        try:
            self.text = data.decode("utf-8")
        except UnicodeDecodeError as wrong:
            before = data[: wrong.start].decode("utf-8") + " "
            raise self._at(before, len(before) - 1, "not UTF-8") from None

    def parse(self) -> dict[str, object]:
        try:
            return tomli.loads(self.text)
        except tomli.TOMLDecodeError as wrong:
            message = wrong.msg[:1].lower() + wrong.msg[1:]
            place = f"{self.name}:{wrong.lineno}:{wrong.colno}"
            raise self._error(f"{place}: not valid TOML: {message}") from None
        except (ValueError, RecursionError) as wrong:
            # Integers of thousands of digits, brackets nested hundreds deep: without a position.
            raise self._error(f"{self.name}:1:1: not valid TOML: {wrong}") from None

    def check(self, action: Callable[[dict[str, object]], T]) -> T:
        """What `action` makes of the data; a Problem becomes an error with its place."""
        data = self.parse()
        try:
            return action(data)
        except Problem as problem:
            raise self.error(problem) from None
        except RecursionError:
            raise self._error(f"{self.name}:1:1: nested too deep") from None

    def error(self, problem: Problem) -> EkaError:
        return self._at(self.text, self._offset(problem), problem.message, problem.hint)

    def _offset(self, problem: Problem) -> int:
        found = locate(self.text)
        path: Path = problem.path
        while path not in found:
            path = path[:-1]
        where = found[path]
        return where.key if problem.at_key else where.value

    def _at(self, text: str, offset: int, message: str, hint: str | None = None) -> EkaError:
        line, column = line_and_column(text, offset)
        return self._error(f"{self.name}:{line}:{column}: {message}", hint=hint)


def read_bytes(file: str | os.PathLike[str], error: type[EkaError], limit: int) -> bytes:
    """At most one byte more than `limit`. Raises `error` for what cannot be read."""
    try:
        with open(file, "rb") as stream:
            return stream.read(limit + 1)
    except FileNotFoundError as wrong:
        lock = os.fspath(file).endswith(".lock")
        hint = "run `eka resolve`" if lock else "run `eka new PATH`, or name another file"
        raise error(f"there is no `{os.fspath(file)}`", hint=hint) from wrong
    except OSError as wrong:
        raise error(f"cannot read `{os.fspath(file)}`: {wrong.strerror}") from wrong
