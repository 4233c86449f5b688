"""Loads sandbox profiles: resolves `extends`, remembers who said what.

Built-in profiles are data files shipped beside the code; a user's own is named by its path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from eka_runtime.errors import ProfileError
from eka_runtime.oci.limits import LimitGrant, parse_limit
from eka_runtime.oci.profile_read import find_profile, read_filter, read_profile
from eka_runtime.oci.spec_seccomp import Seccomp

MAX_DEPTH = 8

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


class Profile(NamedTuple):
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
    origins: Mapping[str, str] = MappingProxyType({})

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


def _load(name: str, above: tuple[Path, ...]) -> Profile:
    file = find_profile(name)
    if file in above or len(above) >= MAX_DEPTH:
        raise ProfileError(f"`{above[-1]}`: `extends` goes in a circle or too deep")
    stated = read_profile(file)
    base = _load(stated["extends"], (*above, file)) if stated.get("extends") else Profile(name)
    profile = _extend(base, stated, name)
    if (filter_ := stated.get("seccomp")) is not None:
        origins = {**profile.origins, "seccomp": f"profile {name}"}
        seccomp = None if filter_ == "none" else read_filter(file.parent / filter_)
        profile = profile._replace(seccomp=seccomp, origins=origins)
    if not above:
        _check(profile, file)
    return profile


def _extend(base: Profile, stated: Mapping[str, Any], name: str) -> Profile:
    """`stated` is as `profile_file.py` describes it."""
    origin = f"profile {name}"
    changes: dict[str, Any] = {"name": name, "origins": dict(base.origins)}
    for key in _SCALARS:
        if (value := stated.get(key.replace("_", "-"))) is not None:
            changes[key] = tuple(sorted(value)) if isinstance(value, list) else value
            changes["origins"][key] = origin
    if "base" in stated:
        changes["base"] = stated["base"]["path"]
        changes["origins"]["base"] = origin
    environment = stated.get("environment", {})
    lists: dict[str, Iterable[Any]] = {
        "mounts": [_mount(table, origin) for table in stated.get("mounts", ())],
        "environment": _defaults(environment.get("set", {}), origin),
        "files": _defaults(stated.get("files", {}), origin),
        "passed": _passed(environment, origin),
        "network_files": [
            NetworkFile(path, tuple(files), origin)
            for path, files in stated.get("network-files", {}).items()
        ],
        "rlimits": [
            Limit(limit["type"], limit["soft"], limit["hard"], origin)
            for limit in stated.get("rlimits", ())
        ],
        "limits": [parse_limit(text, origin) for text in stated.get("limits", ())],
    }
    changes |= {key: _merge(getattr(base, key), items) for key, items in lists.items()}
    return base._replace(**changes)


def _mount(table: Mapping[str, Any], origin: str) -> ProfileMount:
    return ProfileMount(
        table["destination"],
        table["type"],
        table["source"],
        tuple(table.get("options", ())),
        table.get("kind", "directory") == "directory",
        table.get("optional", False),
        table["why"],
        origin,
    )


def _defaults(values: Mapping[str, str], origin: str) -> list[Default]:
    return [Default(name, text, origin) for name, text in values.items()]


def _passed(environment: Mapping[str, Any], origin: str) -> list[Passed]:
    on_terminal = [Passed(name, True, origin) for name in environment.get("pass-on-terminal", ())]
    return on_terminal + [Passed(name, False, origin) for name in environment.get("pass", ())]


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
