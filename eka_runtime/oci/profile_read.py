"""Reads the files that a profile is made of, as the data they hold, once it is known to be right.

What a user wrote is judged by the schema in `profile_file.py`. eka's own files need not be judged
at each start, since a test does that: the schema's library takes longer to be imported than a
sandbox takes to start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli

from eka_runtime.errors import ProfileError
from eka_runtime.oci.spec_seccomp import Seccomp

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_SIZE = 256 * 1024

_HERE = Path(__file__).parent
_PLACES = (_HERE.parent / "_data" / "bundles", _HERE.parent.parent / "bundles")
_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")


def builtin_files() -> tuple[Path, ...]:
    """All that built-in profiles are made of."""
    place = next(place for place in _PLACES if place.is_dir())
    return tuple(sorted(place.iterdir()))


def find_profile(name: str) -> Path:
    """A built-in profile's file by name, or any by its path (a name with a slash)."""
    if "/" in name:
        return Path(name)
    if _NAME.match(name):
        for place in _PLACES:
            file = place / f"{name}.toml"
            if file.is_file():
                return file
    known = sorted({file.stem for place in _PLACES for file in place.glob("*.toml")})
    raise ProfileError(
        f"there is no profile `{name}`",
        hint=f"use one of {', '.join(known)}, or the path of a file such as `./mine.toml`",
    )


def read_profile(file: Path) -> dict[str, Any]:
    """The keys that the file states. Raises ProfileError that says file, line and key."""
    text = _text(file)
    try:
        stated = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ProfileError(f"`{file}` is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ProfileError(f"`{file}` is nested too deeply") from error
    if file.parent not in _PLACES:
        judge_profile(file, text, stated)
    return stated


def judge_profile(file: Path, text: str, stated: dict[str, Any]) -> None:
    """Raises ProfileError for what the schema refuses, the first thing in the file's order."""
    from pydantic import ValidationError

    from eka_runtime.oci.profile_file import ProfileFile

    try:
        ProfileFile.model_validate(stated)
    except ValidationError as error:
        raise _refusal(file, text, error) from None


def read_filter(file: Path) -> Seccomp:
    """`linux.seccomp` of config.json in a file of its own. Raises ProfileError."""
    from eka_runtime.oci.spec_base import InvalidSpec

    text = _text(file)
    if file.parent in _PLACES:
        return Seccomp.shipped(json.loads(text))
    from eka_runtime.oci.judge import judge

    try:
        return judge(Seccomp, text)
    except InvalidSpec as error:
        raise ProfileError(f"`{file}`: {error.problems[0]}") from None


def _refusal(file: Path, text: str, error: ValidationError) -> ProfileError:
    from eka_runtime.oci.judge import describe_errors

    first = error.errors(include_url=False)[0]
    line = _line(text, first["loc"])
    problem = describe_errors([first])[0]
    return ProfileError(f"`{file}`{f', line {line}' if line else ''}: {problem}")


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_SIZE + 1)
    except OSError as error:
        raise ProfileError(f"cannot read the profile `{file}`: {error.strerror}") from error
    if len(data) > MAX_SIZE:
        raise ProfileError(f"the profile `{file}` is larger than {MAX_SIZE // 1024} KiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProfileError(f"the profile `{file}` is not UTF-8: {error}") from error


def _line(text: str, place: Iterable[str | int]) -> int | None:
    """The line a value is stated on, found by its keys; the nearest that is found."""
    start, pattern = 0, ""
    for part in place:
        if isinstance(part, str):
            key = rf"""["']?{re.escape(part)}["']?"""
            pattern = rf"^[ \t]*(?:\[+(?:[\w-]+\.)?{key}\]+|(?:[\w-]+\.)?{key}[ \t]*=)"
        for _ in range(part if isinstance(part, int) else 1):
            match = re.compile(pattern, re.MULTILINE).search(text, start)
            start = match.end() if match else start
    return text.count("\n", 0, start) + 1 if start else None
