"""What a launch must know of the host; probe.py finds it out."""

from __future__ import annotations

from typing import NamedTuple


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
