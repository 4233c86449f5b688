"""Names of atoms and sets: identifiers, labels and tags.

A name is NFKC-normalized first; what is checked, stored and hashed is the normalized text. Letters
and digits are Unicode's XID classes, so that a label is safe in paths and git refs in any script.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

from eka_runtime.errors import FormatError

Kind = Literal["identifier", "label", "tag"]
Reason = Literal["TooLong", "Empty", "InvalidStart", "InvalidCharacters"]

MAX_BYTES = 128
_EXTRA: dict[Kind, str] = {"identifier": "", "label": "-", "tag": "-.:"}
_ALLOWED: dict[Kind, str] = {
    "identifier": "letters, digits and `_`",
    "label": "letters, digits, `_` and `-`",
    "tag": "letters, digits, `_`, `-`, `.` and `:`",
}


class BadName(FormatError):
    """`reason` is the rule that the name breaks, `detail` the characters that do."""

    def __init__(self, message: str, reason: Reason, detail: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.detail = detail


def label(text: str) -> str:
    """The normalized label of an atom, or name of a direct dependency. Raises BadName."""
    return checked("label", text)


def tag(text: str) -> str:
    """The normalized nickname of a set, or tag of anything. Raises BadName."""
    return checked("tag", text)


def checked(kind: Kind, text: str) -> str:
    name = unicodedata.normalize("NFKC", text)
    if len(name.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _refused(kind, f"is longer than {MAX_BYTES} bytes", "TooLong", "")
    if not name:
        raise _refused(kind, "is empty", "Empty", "")
    if not _starts(name[0]):
        what = f"{_shown(name)} may not begin with {_shown(name[0])}"
        raise _refused(kind, what, "InvalidStart", name[0])
    wrong = "".join(c for c in name if not _continues(c) and c not in _EXTRA[kind])
    if not wrong and kind == "tag" and ".." in name:
        wrong = ".."
    if wrong:
        raise _refused(kind, f"{_shown(name)} has {_shown(wrong)}", "InvalidCharacters", wrong)
    return name


def is_label(text: str) -> bool:
    try:
        checked("label", text)
    except BadName:
        return False
    return True


def _starts(char: str) -> bool:
    return char != "_" and char.isidentifier()


def _continues(char: str) -> bool:
    return ("a" + char).isidentifier()


def _shown(text: str) -> str:
    short = text if len(text) <= 40 else text[:40] + "…"
    return (
        "`" + short.encode("unicode_escape").decode() + "`"
        if not short.isprintable()
        else (f"`{short}`")
    )


def _refused(kind: Kind, what: str, reason: Reason, detail: str) -> BadName:
    hint = f"use {_ALLOWED[kind]}, beginning with a letter"
    return BadName(f"the {kind} {what}", reason, detail, hint=hint)
