"""Who asked for what: the reasons behind every mount, variable, namespace and file of a bundle.

Reasons are collected while a bundle is compiled and stored beside its config.json, so they can be
shown for a bundle on disk too. For a config.json that eka did not make, the reasons say just that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from eka_runtime.oci.spec import Capabilities, Mount, Process, Spec
from eka_runtime.oci.spec_seccomp import Seccomp

KINDS = (
    "process",
    "namespace",
    "capabilities",
    "seccomp",
    "mount",
    "env",
    "file",
    "limit",
    "mask",
)
"""In the order they are shown."""

FOREIGN = "config.json"


class Reason(NamedTuple):
    """`origin` is like "profile run", "header network", "flag --read", "closure", "default"."""

    kind: str
    subject: str
    origin: str
    detail: str


def arrange(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """By kind, mounts in the order they are made, the rest by subject."""
    order = {kind: number for number, kind in enumerate(KINDS)}

    def key(numbered: tuple[int, Reason]) -> tuple[int, int, Reason]:
        number, reason = numbered
        return order[reason.kind], number if reason.kind == "mount" else 0, reason

    return tuple(reason for _, reason in sorted(enumerate(reasons), key=key))


def objects(reasons: Iterable[Reason]) -> list[dict[str, str]]:
    """For `--json`: one object per reason (spec/explain.schema.json)."""
    return [reason._asdict() for reason in reasons]


def table(reasons: Sequence[Reason]) -> list[str]:
    """Lines for people, columns aligned, no final blanks."""
    rows = [("KIND", "WHAT", "ASKED BY", "DETAIL"), *reasons]
    widths = [min(max(len(row[column]) for row in rows), limit) for column, limit in _LIMITS]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[3]]).rstrip())
    return lines


# A single long path must not push the other columns off the screen.
_LIMITS = ((0, 12), (1, 60), (2, 32))


def reasons_of_spec(spec: Spec) -> tuple[Reason, ...]:
    """What can be said of any config.json: everything that it grants, asked for by the file."""
    found: list[Reason] = []
    process, linux = spec.process, spec.linux
    if process is not None:
        found += _of_process(process)
    for mount in spec.mounts or ():
        found.append(Reason("mount", mount.destination, FOREIGN, describe_mount(mount)))
    if linux is not None:
        for namespace in linux.namespaces or ():
            detail = f"joined: {namespace.path}" if namespace.path else "new"
            found.append(Reason("namespace", namespace.type, FOREIGN, detail))
        if linux.seccomp is not None:
            found.append(Reason("seccomp", "filter", FOREIGN, describe_filter(linux.seccomp)))
        found += [Reason("mask", path, FOREIGN, "hidden") for path in linux.maskedPaths or ()]
        found += [Reason("mask", path, FOREIGN, "read-only") for path in linux.readonlyPaths or ()]
    return arrange(found)


def _of_process(process: Process) -> list[Reason]:
    found = [
        Reason("process", "args", FOREIGN, " ".join(process.args or ())),
        Reason("process", "cwd", FOREIGN, process.cwd),
    ]
    for text in process.env or ():
        name, _, value = text.partition("=")
        found.append(Reason("env", name, FOREIGN, value))
    for limit in process.rlimits or ():
        found.append(Reason("limit", limit.type, FOREIGN, f"{limit.soft} to {limit.hard}"))
    sets = [getattr(process.capabilities, key, None) for key in Capabilities.field_names]
    granted = sorted({name for names in sets for name in names or ()})
    found.append(Reason("capabilities", "all sets", FOREIGN, ", ".join(granted) or "none"))
    return found


def describe_filter(seccomp: Seccomp) -> str:
    """What becomes of system calls, in a few words."""
    if seccomp.defaultAction == "SCMP_ACT_ALLOW":
        return f"{_count(seccomp, allowed=False)} system calls restricted, all others allowed"
    return f"{_count(seccomp, allowed=True)} system calls allowed, all others refused"


def _count(seccomp: Seccomp, *, allowed: bool) -> int:
    rules = seccomp.syscalls or ()
    return len({n for r in rules if (r.action == "SCMP_ACT_ALLOW") == allowed for n in r.names})


def describe_mount(mount: Mount) -> str:
    """What is mounted and whether it can be written, in a few words."""
    options = mount.options or ()
    access = "read-only" if {"ro", "rro"} & set(options) else "read-write"
    if {"bind", "rbind"} & set(options):
        same = mount.source == mount.destination
        return f"{access}, the same path of the host" if same else f"{access}, {mount.source}"
    return f"{access}, new {mount.type or 'mount'}"
