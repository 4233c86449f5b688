"""Which of the three views shows a closure: what was asked for, or what fits best.

Binding each path is right for most: it works everywhere and costs least where paths are few. From
MANY paths on the mounts would be felt at every start, and an overlay, where the host has it, makes
one. The fuse view is never chosen by itself: cold reads through it cost many times more, and what
it is for, showing what is not there yet, has to be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eka_runtime.errors import HostError, StoreAccessError, UsageError
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.bind import BindView
from eka_runtime.view.fuse import FuseView
from eka_runtime.view.overlay import OverlayView
from eka_runtime.view.plan import ViewPlan

VIEWS = ("auto", "bind", "overlay", "fuse")
MANY = 64


def show(
    store: Store, infos: Sequence[PathInfo], wanted: str, obstacle: Callable[[], str]
) -> ViewPlan:
    """`obstacle` says why this host has no overlays for us, "" if it has.

    Raises UsageError for an unknown view, HostError for one that the host has not, and
    StoreAccessError for a store in which it cannot be made.
    """
    if wanted not in VIEWS:
        raise UsageError(f"there is no view `{wanted}`", hint=f"use one of {', '.join(VIEWS)}")
    if wanted == "fuse":
        return FuseView(store).plan(infos)
    if wanted == "overlay" and (problem := obstacle()):
        raise HostError(
            f"this host has no data-only overlays without privileges: {problem}",
            hint="use `--view bind`; see `eka doctor`",
        )
    overlay = OverlayView(store)
    if wanted == "overlay":
        return overlay.plan(infos)
    if wanted == "auto" and len(infos) >= MANY and overlay.fits() and not obstacle():
        try:
            return overlay.plan(infos)
        except StoreAccessError:
            # For instance a file system without extended attributes.
            pass
    return BindView(store).plan(infos)
