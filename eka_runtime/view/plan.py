"""How a set of store paths is to appear at /nix/store: what every view strategy answers.

A plan is data: bind mounts from host paths, and store paths that are themselves symbolic links
(a bind would follow those). Constraint: a strategy shows exactly the paths asked for, with modes
0444/0555 and modification time 1. Views are caches; deleting one loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from eka_runtime.store.pathinfo import PathInfo


class ViewMount(NamedTuple):
    """Bind `source` (host path) read-only at `destination` (/nix/store or below).

    With `data`, mount an overlay there instead: `source` over that directory of data.
    """

    source: str
    destination: str
    directory: bool
    data: str = ""


class ViewLink(NamedTuple):
    """A store path that is a symbolic link; `target` is its text, decoded with surrogateescape."""

    destination: str
    target: str


class ViewPlan(NamedTuple):
    """Mounts and links are ordered by destination, so that equal closures give equal plans."""

    strategy: str
    mounts: tuple[ViewMount, ...]
    links: tuple[ViewLink, ...]


class ViewStrategy(Protocol):
    """One of bind, overlay, fuse."""

    def plan(self, infos: Sequence[PathInfo]) -> ViewPlan: ...
