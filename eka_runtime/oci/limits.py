"""The limits of a run: what can be asked for, in which units, and where it stands in config.json.

    memory=512M  pids=64  cpu=10s  time=1m  files=256  file-size=1G

memory and pids are `linux.resources`; cpu, files and file-size rlimits; time is an annotation, as
there is no field for it. Out of scope: how a host enforces them (eka_runtime.runtime.limits).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from eka_runtime.errors import GrantError
from eka_runtime.oci.explain import Reason
from eka_runtime.oci.spec import Rlimit
from eka_runtime.oci.spec_resources import Memory, Pids, Resources

TIME_ANNOTATION = "dev.eka.limit.time"
"""Milliseconds of wall time, decimal."""

_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SPANS = {"ms": 1, "": 1000, "s": 1000, "m": 60_000, "h": 3_600_000}
_MAX = 2**62


class LimitGrant(NamedTuple):
    """`value`: bytes, a number, seconds for cpu, milliseconds for time; None lifts the limit."""

    name: str
    value: int | None
    origin: str
    text: str


class _Kind(NamedTuple):
    read: Callable[[str], int | None]
    least: int
    example: str
    meaning: str


def parse_limit(text: str, origin: str) -> LimitGrant:
    """`NAME=VALUE`, or `NAME=none`. Raises GrantError."""
    name, equals, value = text.partition("=")
    kind = KINDS.get(name)
    if kind is None or not equals:
        known = ", ".join(f"`{key}={kind.example}`" for key, kind in KINDS.items())
        raise GrantError(f"`{text}` ({origin}) is not a limit", hint=f"write one of {known}")
    if value == "none":
        return LimitGrant(name, None, origin, value)
    number = kind.read(value)
    if number is None or not kind.least <= number <= _MAX:
        raise GrantError(
            f"`{text}` ({origin}) is not a limit that can be set",
            hint=f"write it as in `{name}={kind.example}`; {kind.meaning}",
        )
    return LimitGrant(name, number, origin, value)


def effective(*layers: Iterable[LimitGrant]) -> dict[str, LimitGrant]:
    """By name; later layers win, and within a layer what is stated first."""
    found: dict[str, LimitGrant] = {}
    for layer in layers:
        found.update({limit.name: limit for limit in reversed(list(layer))})
    return {name: limit for name, limit in sorted(found.items()) if limit.value is not None}


def resources(limits: Mapping[str, LimitGrant]) -> Resources | None:
    memory, pids = _value(limits, "memory"), _value(limits, "pids")
    if memory is None and pids is None:
        return None
    return Resources().replace(
        memory=None if memory is None else Memory(limit=memory, swap=memory),
        pids=None if pids is None else Pids(limit=pids),
    )


def rlimits(limits: Mapping[str, LimitGrant]) -> list[Rlimit]:
    found = []
    for name, kind, extra in _RLIMITS:
        value = _value(limits, name)
        if value is not None:
            found.append(Rlimit(type=kind, soft=value, hard=value + extra))
    return found


def time_annotation(limits: Mapping[str, LimitGrant]) -> dict[str, str]:
    time = _value(limits, "time")
    return {} if time is None else {TIME_ANNOTATION: str(time)}


def reasons(limits: Mapping[str, LimitGrant]) -> list[Reason]:
    return [
        Reason("limit", name, limit.origin, f"{limit.text}: {KINDS[name].meaning}")
        for name, limit in limits.items()
    ]


def _value(limits: Mapping[str, LimitGrant], name: str) -> int | None:
    return limits[name].value if name in limits else None


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _size(text: str) -> int | None:
    match = re.fullmatch(r"([0-9]{1,18})([KMGT]?)(?:i?B)?", text)
    return int(match[1]) * _SIZES[match[2]] if match else None


def _milliseconds(text: str) -> int | None:
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(ms|[smh]?)", text)
    return round(float(match[1]) * _SPANS[match[2]]) if match else None


def _seconds(text: str) -> int | None:
    span = _milliseconds(text)
    return None if span is None else -(-span // 1000)


# At the soft limit of processor time a program is told (SIGXCPU), at the hard one it is killed.
_RLIMITS = (
    ("cpu", "RLIMIT_CPU", 1),
    ("file-size", "RLIMIT_FSIZE", 0),
    ("files", "RLIMIT_NOFILE", 0),
)

KINDS: Mapping[str, _Kind] = {
    "memory": _Kind(_size, 2**20, "512M", "bytes of memory, 1M or more"),
    "pids": _Kind(_number, 1, "64", "processes and threads at a time"),
    "cpu": _Kind(_seconds, 1, "10s", "processor time of each process, in whole seconds"),
    "time": _Kind(_milliseconds, 1, "1m", "time until it is ended, with status 124"),
    "files": _Kind(_number, 8, "256", "files that a process has open, 8 or more"),
    "file-size": _Kind(_size, 2**16, "1G", "bytes of a file that is written, 64K or more"),
}
"""Every limit by its name in headers, flags and profiles."""
