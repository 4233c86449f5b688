"""Texts of strangers, fit for a message: nothing in them that a terminal would obey."""

from __future__ import annotations


def printable(text: str, instead: str = "?") -> str:
    """The same with another character for each that is not printable; line feeds are not."""
    return "".join(char if char.isprintable() else instead for char in text)


def in_one_line(text: str, limit: int) -> str:
    """The first `limit` characters, printable, with single spaces between words."""
    return printable(" ".join(text[:limit].split()))
