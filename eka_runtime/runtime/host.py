"""What a launch must know of the host; probe.py finds it out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_UNIFIED = "/sys/fs/cgroup/unified"


class Host(NamedTuple):
    """The mode and the runtime in force, proven by a start of an empty bundle.

    `refused` holds what was tried before and why it did not work, as "mode runtime: reason".
    """

    mode: str  # outer, direct, degraded: spec/host.md
    runtime: str  # absolute path
    kind: str  # crun, runc
    uid: int
    gid: int
    cover: tuple[str, ...] = ()  # cgroup trees that crun chokes on
    proc: str = "hidepid=4"  # mount options of /proc in outer mode
    bpf: bool = False  # whether the runtime takes a compiled system call filter
    refused: tuple[str, ...] = ()


class Runtime(NamedTuple):
    path: str
    kind: str


def hybrid_cgroups() -> tuple[str, ...]:
    """The tree that must be hidden from crun: it refuses a cgroup2 that shares its controllers."""
    try:
        controllers = Path(_UNIFIED, "cgroup.controllers").read_text()
    except OSError:
        return ()
    return (_UNIFIED,) if controllers.strip() else ()
