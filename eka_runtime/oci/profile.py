"""Loads sandbox profiles: finds the file, checks it, resolves `extends`, remembers who said what.

Built-in profiles are data files shipped beside the code; a user's own is named by its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tomli
from pydantic import ValidationError

from eka_runtime.errors import ProfileError
from eka_runtime.oci.limits import LimitGrant, parse_limit
from eka_runtime.oci.profile_file import MountTable, ProfileFile
from eka_runtime.oci.spec_base import describe_errors
from eka_runtime.oci.spec_seccomp import Seccomp

MAX_SIZE = 256 * 1024
MAX_DEPTH = 8

_HERE = Path(__file__).parent
_PLACES = (_HERE.parent / "_data" / "bundles", _HERE.parent.parent / "bundles")
_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")
_SCALARS = (
    "description",
    "hostname",
    "grant_cwd",
    "home",
    "no_new_privileges",
    "namespaces",
    "capabilities",
    "masked_paths",
    "readonly_paths",
    "nesting",
    "devices",
)
_Item = TypeVar("_Item", bound=tuple[Any, ...])


class ProfileMount(NamedTuple):
    destination: str
    type: str
    source: str
    options: tuple[str, ...]
    directory: bool
    optional: bool
    why: str
    origin: str


class Default(NamedTuple):
    """A variable or a file: its name or path, its text with placeholders, who stated it."""

    name: str
    text: str
    origin: str


class Passed(NamedTuple):
    """A variable taken from the caller at each launch, or only when the launch has a terminal."""

    name: str
    terminal_only: bool
    origin: str


class NetworkFile(NamedTuple):
    """The first of `candidates` the host has is shown at `destination`, where there is network."""

    destination: str
    candidates: tuple[str, ...]
    origin: str


class Limit(NamedTuple):
    type: str
    soft: int
    hard: int
    origin: str


@dataclass(frozen=True, slots=True)
class Profile:
    """A resolved profile. `origins` says which profile stated each single-valued key."""

    name: str
    description: str = ""
    hostname: str | None = None
    grant_cwd: bool = False
    home: str = "private"
    no_new_privileges: bool = True
    namespaces: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mounts: tuple[ProfileMount, ...] = ()
    environment: tuple[Default, ...] = ()
    passed: tuple[Passed, ...] = ()
    files: tuple[Default, ...] = ()
    network_files: tuple[NetworkFile, ...] = ()
    rlimits: tuple[Limit, ...] = ()
    limits: tuple[LimitGrant, ...] = ()
    devices: tuple[str, ...] = ()
    seccomp: Seccomp | None = None
    nesting: tuple[str, ...] = ()
    base: str | None = None
    origins: dict[str, str] = field(default_factory=dict)

    def origin(self, key: str) -> str:
        return self.origins.get(key, "default")

    def host_paths(self) -> tuple[str, ...]:
        """Host paths whose existence decides what is compiled (`BundleRequest.host_files`)."""
        wanted = {mount.source for mount in self.mounts if mount.optional}
        for file in self.network_files:
            wanted.update(file.candidates)
        return tuple(sorted(wanted))


def load_profile(name: str) -> Profile:
    """A built-in profile by name, or any by the path of its file (a name with a slash).

    Raises ProfileError that says file, line and key.
    """
    return _load(name, ())


def builtin_files() -> tuple[Path, ...]:
    """All that built-in profiles are made of."""
    place = next(place for place in _PLACES if place.is_dir())
    return tuple(sorted(place.iterdir()))


def _load(name: str, above: tuple[Path, ...]) -> Profile:
    file = _find(name)
    if file in above or len(above) >= MAX_DEPTH:
        raise ProfileError(f"`{above[-1]}`: `extends` goes in a circle or too deep")
    stated = _read(file)
    base = _load(stated.extends, (*above, file)) if stated.extends else Profile(name)
    profile = _extend(base, stated, name)
    if stated.seccomp is not None:
        origins = profile.origins | {"seccomp": f"profile {name}"}
        profile = replace(profile, seccomp=_filter(file, stated.seccomp), origins=origins)
    if not above:
        _check(profile, file)
    return profile


def _find(name: str) -> Path:
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


def _read(file: Path) -> ProfileFile:
    text = _text(file)
    try:
        return ProfileFile.model_validate(tomli.loads(text))
    except tomli.TOMLDecodeError as error:
        raise ProfileError(f"`{file}` is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ProfileError(f"`{file}` is nested too deeply") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        line = _line(text, first["loc"])
        problem = describe_errors([first])[0]
        raise ProfileError(f"`{file}`{f', line {line}' if line else ''}: {problem}") from None


def _filter(profile: Path, name: str) -> Seccomp | None:
    if name == "none":
        return None
    file = profile.parent / name
    try:
        return Seccomp.model_validate_json(_text(file))
    except ValidationError as error:
        problem = describe_errors(error.errors(include_url=False))[0]
        raise ProfileError(f"`{file}`: {problem}") from None


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


def _extend(base: Profile, stated: ProfileFile, name: str) -> Profile:
    origin = f"profile {name}"
    changes: dict[str, Any] = {"name": name, "origins": dict(base.origins)}
    for key in _SCALARS:
        if key in stated.model_fields_set:
            value = getattr(stated, key)
            changes[key] = tuple(sorted(value)) if isinstance(value, list) else value
            changes["origins"][key] = origin
    if stated.base is not None:
        changes["base"] = stated.base.path
        changes["origins"]["base"] = origin
    environment = stated.environment
    changes["mounts"] = _merge(base.mounts, (_mount(table, origin) for table in stated.mounts))
    changes["environment"] = _merge(base.environment, _defaults(environment.set, origin))
    changes["files"] = _merge(base.files, _defaults(stated.files, origin))
    passed = [Passed(variable, True, origin) for variable in environment.pass_on_terminal]
    passed += [Passed(variable, False, origin) for variable in environment.pass_]
    changes["passed"] = _merge(base.passed, passed)
    changes["network_files"] = _merge(
        base.network_files,
        (NetworkFile(path, tuple(files), origin) for path, files in stated.network_files.items()),
    )
    changes["rlimits"] = _merge(
        base.rlimits,
        (Limit(limit.type, limit.soft, limit.hard, origin) for limit in stated.rlimits),
    )
    stated_limits = [parse_limit(text, origin) for text in stated.limits]
    changes["limits"] = _merge(base.limits, stated_limits)
    return replace(base, **changes)


def _mount(table: MountTable, origin: str) -> ProfileMount:
    return ProfileMount(
        table.destination,
        table.type,
        table.source,
        tuple(table.options),
        table.kind == "directory",
        table.optional,
        table.why,
        origin,
    )


def _defaults(values: dict[str, str], origin: str) -> list[Default]:
    return [Default(name, text, origin) for name, text in values.items()]


def _merge(base: Iterable[_Item], stated: Iterable[_Item]) -> tuple[_Item, ...]:
    """By first field; parents sort before children, so mounts are in mountable order."""
    merged = {item[0]: item for item in base} | {item[0]: item for item in stated}
    return tuple(merged[key] for key in sorted(merged, key=lambda key: str(key).split("/")))


def _check(profile: Profile, file: Path) -> None:
    for needed in ("mount", "user"):
        if needed not in profile.namespaces:
            raise ProfileError(f"`{file}`: namespaces must include `{needed}`")
    if profile.hostname is not None and "uts" not in profile.namespaces:
        raise ProfileError(f"`{file}`: hostname needs the `uts` namespace")
    proc = any(mount.type == "proc" for mount in profile.mounts)
    if proc and "pid" not in profile.namespaces:
        raise ProfileError(f"`{file}`: a `proc` mount needs the `pid` namespace")
