"""The OCI runtime-spec 1.2 as models: the whole of config.json for Linux.

`Spec.from_json` reads any config.json, `Spec.to_json` writes the one canonical form (sorted keys,
two-space indent). The objects of other platforms are kept as they are and not looked into.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from eka_runtime.errors import SpecError
from eka_runtime.oci.spec_base import InvalidSpec, Model, Problem, canonical_json
from eka_runtime.oci.spec_linux import IDMapping, Linux

if TYPE_CHECKING:
    from eka_runtime.oci.judge import (
        CpuList,
        Int32,
        Opt,
        RlimitType,
        Seconds,
        StringMap,
        Strings,
        UInt32,
        UInt64,
    )

MAX_SIZE = 16 * 1024 * 1024
"""Bytes of config.json we are willing to read; a bundle of 10 000 binds has 3 MB."""

SchedulerPolicy = Literal[
    "SCHED_OTHER",
    "SCHED_FIFO",
    "SCHED_RR",
    "SCHED_BATCH",
    "SCHED_ISO",
    "SCHED_IDLE",
    "SCHED_DEADLINE",
]
SchedulerFlag = Literal[
    "SCHED_FLAG_RESET_ON_FORK",
    "SCHED_FLAG_RECLAIM",
    "SCHED_FLAG_DL_OVERRUN",
    "SCHED_FLAG_KEEP_POLICY",
    "SCHED_FLAG_KEEP_PARAMS",
    "SCHED_FLAG_UTIL_CLAMP_MIN",
    "SCHED_FLAG_UTIL_CLAMP_MAX",
]


class Root(Model):
    path: str
    readonly: Opt[bool] = None


class Mount(Model):
    destination: str
    type: Opt[str] = None
    source: Opt[str] = None
    options: Opt[Strings] = None
    uidMappings: Opt[tuple[IDMapping, ...]] = None
    gidMappings: Opt[tuple[IDMapping, ...]] = None


class ConsoleSize(Model):
    height: UInt64
    width: UInt64


class User(Model):
    uid: Opt[UInt32] = None
    gid: Opt[UInt32] = None
    umask: Opt[UInt32] = None
    additionalGids: Opt[tuple[UInt32, ...]] = None
    username: Opt[str] = None


class Capabilities(Model):
    bounding: Opt[Strings] = None
    permitted: Opt[Strings] = None
    effective: Opt[Strings] = None
    inheritable: Opt[Strings] = None
    ambient: Opt[Strings] = None


class IOPriority(Model):
    class_: Literal["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"]
    priority: Opt[Int32] = None


class Scheduler(Model):
    policy: SchedulerPolicy
    nice: Opt[Int32] = None
    priority: Opt[Int32] = None
    flags: Opt[tuple[SchedulerFlag, ...]] = None
    runtime: Opt[UInt64] = None
    deadline: Opt[UInt64] = None
    period: Opt[UInt64] = None


class Rlimit(Model):
    type: RlimitType
    soft: UInt64
    hard: UInt64


class ExecCPUAffinity(Model):
    initial: Opt[CpuList] = None
    final: Opt[CpuList] = None


class Process(Model):
    cwd: str
    args: Opt[Strings] = None
    commandLine: Opt[str] = None
    consoleSize: Opt[ConsoleSize] = None
    env: Opt[Strings] = None
    terminal: Opt[bool] = None
    user: Opt[User] = None
    capabilities: Opt[Capabilities] = None
    apparmorProfile: Opt[str] = None
    oomScoreAdj: Opt[int] = None
    selinuxLabel: Opt[str] = None
    ioPriority: Opt[IOPriority] = None
    noNewPrivileges: Opt[bool] = None
    scheduler: Opt[Scheduler] = None
    rlimits: Opt[tuple[Rlimit, ...]] = None
    execCPUAffinity: Opt[ExecCPUAffinity] = None


class Hook(Model):
    path: str
    args: Opt[Strings] = None
    env: Opt[Strings] = None
    timeout: Opt[Seconds] = None


class Hooks(Model):
    prestart: Opt[tuple[Hook, ...]] = None
    createRuntime: Opt[tuple[Hook, ...]] = None
    createContainer: Opt[tuple[Hook, ...]] = None
    startContainer: Opt[tuple[Hook, ...]] = None
    poststart: Opt[tuple[Hook, ...]] = None
    poststop: Opt[tuple[Hook, ...]] = None


class Spec(Model):
    """A whole config.json."""

    ociVersion: str
    hooks: Opt[Hooks] = None
    annotations: Opt[StringMap] = None
    hostname: Opt[str] = None
    domainname: Opt[str] = None
    mounts: Opt[tuple[Mount, ...]] = None
    root: Opt[Root] = None
    process: Opt[Process] = None
    linux: Opt[Linux] = None
    solaris: Opt[dict[str, Any]] = None
    windows: Opt[dict[str, Any]] = None
    vm: Opt[dict[str, Any]] = None
    zos: Opt[dict[str, Any]] = None
    freebsd: Opt[dict[str, Any]] = None

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Raises InvalidSpec (a SpecError) that lists every problem with its JSON path."""
        _refuse_duplicate_keys(data)
        from eka_runtime.oci.judge import judge

        return judge(cls, data)

    def to_json(self) -> bytes:
        return canonical_json(self.to_data())


def load_spec(place: Path) -> Spec:
    """The spec of a bundle directory or of a config.json itself; problems are as in `from_json`."""
    file = place / "config.json" if place.is_dir() else place
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_SIZE + 1)
    except OSError as error:
        raise SpecError(
            f"cannot read `{file}`: {error.strerror}",
            hint="give a bundle directory or a config.json",
        ) from error
    if len(data) > MAX_SIZE:
        raise SpecError(f"`{file}` is larger than {MAX_SIZE // 2**20} MiB")
    return Spec.from_json(data)


def _refuse_duplicate_keys(data: bytes | str) -> None:
    # Parsers differ in which of two equal keys they believe, so what we show could differ from what
    # the runtime does. NaN and infinities are no JSON, yet Python's parser takes them.
    try:
        json.loads(data, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidSpec([Problem("", f"not valid JSON: {reason}")]) from None


def _unique(items: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in items:
        if key in seen:
            raise InvalidSpec([Problem("", f"key `{key}` occurs twice in one object")])
        seen.add(key)


def _finite(text: str) -> None:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is not a finite number")
