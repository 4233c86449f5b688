"""Versions (SemVer 2.0) and requirements on them, read and matched as Cargo does.

Source: the behavior of Rust's `semver` crate, which upstream uses; Python's own libraries order
and match versions by other rules. Numbers are below 2**64, as there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from eka_runtime.errors import FormatError

_NUMBER = r"(?:0|[1-9][0-9]*)"
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_IDENTIFIERS}))?(?:\+({_IDENTIFIERS}))?"
)
_COMPARATOR = re.compile(
    rf"(?P<op>>=|<=|[=><~^])? *(?P<major>{_NUMBER})"
    rf"(?:\.(?P<minor>{_NUMBER}|[*xX]))?(?:\.(?P<patch>{_NUMBER}|[*xX]))?"
    rf"(?:-(?P<pre>{_IDENTIFIERS}))?(?:\+(?P<build>{_IDENTIFIERS}))? *"
)
_STAR = re.compile(r" *[*xX] *")
_BELOW = 1 << 64
MAX_COMPARATORS = 32
LENGTH_LIMIT = 1024
"""Of a version or requirement, in characters: nobody writes longer ones in good faith."""


class Version(NamedTuple):
    """`pre` and `build` are the identifiers without their mark, joined by dots; "" for none.

    Compare by `sort_key`, not with `<`: the order of tuples is not that of versions.
    """

    major: int
    minor: int
    patch: int
    pre: str = ""
    build: str = ""

    def __str__(self) -> str:
        pre = f"-{self.pre}" if self.pre else ""
        build = f"+{self.build}" if self.build else ""
        return f"{self.major}.{self.minor}.{self.patch}{pre}{build}"


def parse_version(text: str) -> Version:
    """Raises FormatError."""
    match = _VERSION.fullmatch(text) if len(text) <= LENGTH_LIMIT else None
    if match is None or not _numbers_fit(match.groups()[:3]) or _leading_zero(match[4] or ""):
        raise FormatError(
            f"{_shown(text)} is not a version", hint="write all three numbers, as in `1.2.3`"
        )
    major, minor, patch = (int(number) for number in match.groups()[:3])
    return Version(major, minor, patch, match[4] or "", match[5] or "")


def _numbers_fit(numbers: Iterable[str | None]) -> bool:
    return all(number is None or (len(number) <= 20 and int(number) < _BELOW) for number in numbers)


def _leading_zero(pre: str) -> bool:
    return any(part.isdigit() and part[0] == "0" and part != "0" for part in pre.split("."))


Part = tuple[int, int, int, str]


def sort_key(version: Version) -> tuple[int, int, int, list[Part], list[Part]]:
    """SemVer's precedence, then build metadata, so that "the highest" is one only."""
    return (*version[:3], _pre_key(version.pre), _parts(version.build))


def _pre_key(pre: str) -> list[Part]:
    """A release comes after all its pre-releases."""
    return _parts(pre) if pre else [(2, 0, 0, "")]


def _parts(text: str) -> list[Part]:
    return [_part(part) for part in text.split(".")] if text else []


def _part(part: str) -> Part:
    # Numbers before words; equal numbers (build metadata may have zeros in front) by their length.
    return (0, int(part), len(part), "") if part.isdigit() else (1, 0, 0, part)


class Comparator(NamedTuple):
    """`op` is one of `= > >= < <= ~ ^` or `*` (`1.*`); `minor` and `patch` None if not stated."""

    op: str
    major: int
    minor: int | None = None
    patch: int | None = None
    pre: str = ""

    def __str__(self) -> str:
        op = "" if self.op == "*" else self.op
        numbers = [str(n) for n in (self.major, self.minor, self.patch) if n is not None]
        if self.op == "*":
            numbers.append("*")
        return op + ".".join(numbers) + (f"-{self.pre}" if self.pre else "")

    def matches(self, version: Version) -> bool:
        """By this comparator alone; pre-releases are the requirement's business."""
        match self.op:
            case "=" | "*":
                return self._equal(version)
            case ">":
                return self._beyond(version, 1)
            case ">=":
                return self._equal(version) or self._beyond(version, 1)
            case "<":
                return self._beyond(version, -1)
            case "<=":
                return self._equal(version) or self._beyond(version, -1)
            case "~":
                return self._tilde(version)
        return self._caret(version)

    def _equal(self, version: Version) -> bool:
        stated = zip(self[1:4], version[:3], strict=True)
        return all(mine in (None, its) for mine, its in stated) and version.pre == self.pre

    def _beyond(self, version: Version, sign: int) -> bool:
        for mine, its in zip(self[1:4], version[:3], strict=True):
            if mine is None:
                return False
            if mine != its:
                return (its - mine) * sign > 0
        mine_pre, its_pre = _pre_key(self.pre), _pre_key(version.pre)
        return its_pre > mine_pre if sign > 0 else its_pre < mine_pre

    def _tilde(self, version: Version) -> bool:
        if self.major != version.major or self.minor not in (None, version.minor):
            return False
        if self.patch not in (None, version.patch):
            return version.patch > self.patch
        return _pre_key(version.pre) >= _pre_key(self.pre)

    def _caret(self, version: Version) -> bool:
        if version.major != self.major or self.minor is None:
            return version.major == self.major
        if version.minor != self.minor:
            return self.major > 0 and version.minor > self.minor
        if self.patch is None:
            return True
        if version.patch != self.patch:
            return (self.major > 0 or self.minor > 0) and version.patch > self.patch
        return _pre_key(version.pre) >= _pre_key(self.pre)

    def allows_pre(self, version: Version) -> bool:
        return bool(self.pre) and self[1:4] == version[:3]


class Requirement(NamedTuple):
    """No comparators: `*`, any release."""

    comparators: tuple[Comparator, ...] = ()

    def __str__(self) -> str:
        """Canonical: what upstream writes for the same requirement."""
        return ", ".join(map(str, self.comparators)) or "*"

    def matches(self, version: Version) -> bool:
        if not all(comparator.matches(version) for comparator in self.comparators):
            return False
        return not version.pre or any(c.allows_pre(version) for c in self.comparators)

    def highest(self, versions: Iterable[Version]) -> Version | None:
        """The highest of those that match."""
        return max(filter(self.matches, versions), key=sort_key, default=None)


ANY = Requirement()


def parse_requirement(text: str) -> Requirement:
    """Raises FormatError."""
    if _STAR.fullmatch(text):
        return ANY
    parts = text.split(",") if len(text) <= LENGTH_LIMIT else []
    if not 0 < len(parts) <= MAX_COMPARATORS:
        raise _not_a_requirement(text)
    return Requirement(tuple(_comparator(part, text) for part in parts))


def _comparator(part: str, text: str) -> Comparator:
    match = _COMPARATOR.fullmatch(part.lstrip(" "))
    if match is None:
        raise _not_a_requirement(text)
    major, minor, patch = (_stated(match[name]) for name in ("major", "minor", "patch"))
    wildcard = any(match[name] in ("*", "x", "X") for name in ("minor", "patch"))
    assert major is not None  # the pattern has no wildcard there
    half = minor is None and patch is not None
    extra = patch is None and (match["pre"] or match["build"])
    numbers = [match["major"], *(str(n) for n in (minor, patch) if n is not None)]
    if half or extra or _leading_zero(match["pre"] or "") or not _numbers_fit(numbers):
        raise _not_a_requirement(text)
    op = match["op"] or ("*" if wildcard else "^")
    return Comparator(op, major, minor, patch, match["pre"] or "")


def _stated(number: str | None) -> int | None:
    return int(number) if number is not None and number.isdigit() else None


def _not_a_requirement(text: str) -> FormatError:
    return FormatError(
        f"{_shown(text)} is not a version requirement",
        hint="write one as in `^1.2`, `~1.2.3`, `>=1, <3` or `*`",
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
