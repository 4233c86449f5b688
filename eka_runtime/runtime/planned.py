"""What is said of a start: its plan, which `launch.py` makes and `enter.py` executes, and what
helpers of the launcher see of it.

Types only, for those who check them: a start imports nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Protocol, TypedDict

from eka_runtime.runtime.limits import Placed

Call = Callable[..., int]
"""call(name, *arguments) of a function of libc; see `enter.binding`."""


class Plan(TypedDict):
    """Everything `enter` needs; only values that `marshal` can write."""

    mode: str
    runtime: tuple[str, ...]  # its path and global options
    path: str  # PATH of the runtime, which looks there for newuidmap
    state: str
    template: tuple[bytes | str, ...]  # config.json; a str names a hole: args env terminal limits
    descriptors: int  # that the runtime may need; 0 if few
    rlimits: tuple[tuple[str, int, int], ...]  # name, soft, hard
    shell: str  # commands of the bundle's shell, ahead of the program
    no_network: bool  # a network namespace of the launcher's, with nothing up
    milliseconds: int  # that the program may take; 0 for any
    groups: tuple[Placed, ...]  # control groups to make
    settle: tuple[tuple[int, str, str], ...]  # and to set once the program runs
    init: tuple[str, ...]  # goes before the program's arguments
    terminal: bool
    console: bool  # the launcher serves the terminal, not the runtime
    cover: tuple[str, ...]  # directories hidden from the runtime
    readonly: tuple[str, ...]  # trees it must not write to
    protect: bool
    pinned: tuple[tuple[str, str], ...]  # what is granted, and where the runtime finds it
    proc: bytes  # mount options of /proc
    serve: tuple[str, ...]  # where to mount a fuse view, and its server; () for other views


class Launcher(Protocol):
    """What the console sees of `enter.Launch`."""

    call: Call

    @property
    def signals(self) -> Set[int]:
        """Those that it waits for."""

    def handle(self, signal: int, code: int) -> bool:
        """Acts on a signal and its si_code; True once the child is gone."""

    def suspend(self) -> None:
        """Stops the program and the launcher, until someone continues the latter."""
