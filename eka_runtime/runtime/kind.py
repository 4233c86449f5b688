"""What must be known of a container runtime to drive it: a `Kind` in crun.py and in runc.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Config = dict[str, Any]
"""config.json as `json.loads` gives it."""


class Kind(NamedTuple):
    """`options` are the global ones, with {state} for the state directory."""

    name: str
    options: tuple[str, ...]
    adapt: Callable[[Config], None]
    clones_itself: bool  # copies its own file and starts anew unless that is read-only
    raises_nofile: bool  # for itself, and leaves the program with that
    takes_bpf: bool  # a compiled system call filter, where a probe found so
    threads: int  # that it has at most, of its own
    makes_cgroups: bool  # even without being asked, where root may
    hands_over_terminals: bool  # also when it stays attached


def namespace_types(config: Config) -> set[str]:
    return {entry["type"] for entry in config.get("linux", {}).get("namespaces", [])}


def nothing(config: Config) -> None:
    """For a runtime that takes a bundle as it is."""
