"""The schema of a sandbox profile, `bundles/<name>.toml`: what may be written, and nothing else.

Data only; `profile.py` reads the files and resolves `extends`. Constraint: a profile from outside
can make a sandbox that is useless, never one that shadows /nix/store or writes outside the bundle.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from eka_runtime.oci.judge import RlimitType, UInt64
from eka_runtime.oci.spec_linux import NamespaceType

MAX_FILE = 64 * 1024
"""Characters of one file a profile may place in the rootfs."""

PLACEHOLDERS = ("gid", "group", "home", "hostname", "uid", "user")
MountType = Literal["bind", "cgroup", "devpts", "mqueue", "proc", "sysfs", "tmpfs"]

_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
_OWN = ("/nix", "/bin/sh", "/usr/bin/env")


def _absolute(path: str) -> str:
    parts = path.split("/")[1:]
    if not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError("must be an absolute path without `.`, `..` or a final slash")
    if re.search(r"[\0-\x1f\x7f]", path):
        raise ValueError("must not have control characters")
    return path


def _inside(path: str) -> str:
    for place in _OWN:
        if path == place or path.startswith(f"{place}/"):
            raise ValueError(f"`{place}` is made by eka")
    return _absolute(path)


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not have a null character")
    for name in _PLACEHOLDER.findall(value):
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"unknown placeholder `{{{name}}}`: use one of {known}")
    return value


HostPath = Annotated[str, AfterValidator(_absolute)]
InnerPath = Annotated[str, AfterValidator(_inside)]
Text = Annotated[str, AfterValidator(_text)]
FileText = Annotated[str, Field(max_length=MAX_FILE), AfterValidator(_text)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Capability = Annotated[str, Field(pattern=r"^CAP_[A-Z_]+$")]
Hostname = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]


FilterFile = Annotated[str, Field(pattern=r"^(none|[A-Za-z0-9_.-]+\.json|.*/[^/\x00]+\.json)$")]
"""`linux.seccomp` of config.json as a file, beside the profile unless it has a slash."""
DeviceName = Annotated[str, Field(pattern=r"^/dev/[A-Za-z0-9_/*-]+$")]
"""A device that may be granted; `*` stands for any text."""
SystemCall = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class Table(BaseModel):
    """Keys are written with hyphens; unknown ones are errors."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.rstrip("_").replace("_", "-"),
    )


class MountTable(Table):
    """One `[[mounts]]`. With `optional`, it is left out where the host lacks the source."""

    destination: InnerPath
    type: MountType
    source: str
    options: list[str] = []
    kind: Literal["directory", "file"] = "directory"
    optional: bool = False
    why: Annotated[str, Field(min_length=1, max_length=200)]

    @model_validator(mode="after")
    def _consistent(self) -> MountTable:
        if self.type == "bind":
            _absolute(self.source)
            if not {"bind", "rbind"} & set(self.options):
                raise ValueError("a bind needs `bind` or `rbind` among its options")
        elif self.optional or self.kind == "file":
            raise ValueError("`optional` and `kind` belong to binds")
        return self


class RlimitTable(Table):
    type: RlimitType
    soft: UInt64
    hard: UInt64

    @model_validator(mode="after")
    def _ordered(self) -> RlimitTable:
        if self.soft > self.hard:
            raise ValueError("`soft` must not exceed `hard`")
        return self


class EnvironmentTable(Table):
    """`pass` names variables taken from the caller at each launch, `pass-on-terminal` only then."""

    set: dict[Variable, Text] = {}
    pass_: list[Variable] = []
    pass_on_terminal: list[Variable] = []


class BaseTable(Table):
    """`path` is a store path whose tree is the root file system below eka's own files."""

    path: Annotated[str, Field(pattern=r"^/nix/store/[0-9a-z]{32}-[0-9A-Za-z+._?=-]{1,211}$")]


class ProfileFile(Table):
    """A whole profile. With `extends`, what is stated here replaces or adds to that profile's."""

    description: Annotated[str, Field(min_length=1, max_length=200)]
    extends: str | None = None
    hostname: Hostname | None = None
    grant_cwd: bool = False
    home: Literal["private", "none"] = "private"
    no_new_privileges: bool = True
    namespaces: list[NamespaceType] = []
    capabilities: list[Capability] = []
    masked_paths: list[HostPath] = []
    readonly_paths: list[HostPath] = []
    mounts: list[MountTable] = []
    environment: EnvironmentTable = EnvironmentTable()
    files: dict[InnerPath, FileText] = {}
    network_files: dict[InnerPath, Annotated[list[HostPath], Field(min_length=1)]] = {}
    rlimits: list[RlimitTable] = []
    limits: list[str] = []
    devices: list[DeviceName] = []
    seccomp: FilterFile | None = None
    nesting: list[SystemCall] = []
    base: BaseTable | None = None

    @model_validator(mode="after")
    def _unique(self) -> ProfileFile:
        _refuse_twice("namespaces", self.namespaces)
        _refuse_twice("mounts", (mount.destination for mount in self.mounts))
        _refuse_twice("rlimits", (limit.type for limit in self.rlimits))
        return self


def _refuse_twice(key: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"`{value}` occurs twice in `{key}`")
        seen.add(value)
