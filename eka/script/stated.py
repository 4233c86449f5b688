"""What a script or a command line states, by whom, and the errors that point there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from eka_runtime.errors import HeaderError

VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*(\*|=[^\x00]*)?"
"""`NAME`, `NAME*` or `NAME=value`; to be matched in full."""

T = TypeVar("T")


class Stated(NamedTuple, Generic[T]):
    """A value and who asked for it: `--read`, or `read (tool.py:5:10)`.

    Relative paths start at the script's directory when `in_script`, else at the working directory.
    """

    value: T
    origin: str
    in_script: bool


class Place(NamedTuple):
    """Line and column count from 1; columns are characters, as editors count them."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def error(self, message: str, *, hint: str | None = None) -> HeaderError:
        return HeaderError(f"{self}: {message}", hint=hint)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be."""
    from difflib import get_close_matches

    # A hostile word may be long, and the comparison is quadratic.
    found = get_close_matches(word[:80], known, n=1)
    return found[0] if found else None


def quoted(word: str, limit: int = 80) -> str:
    """A word from outside for a message: on one line, bounded, without control characters."""
    shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in word[:limit])
    return f"`{shown}…`" if len(word) > limit else f"`{shown}`"
