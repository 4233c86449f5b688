"""The overlay view: a tree of the closure's names and modes, over the blob directory as data.

    STORE/view/overlay/<name>/closure   which closure it is (`eka_runtime/store/closure_views.py`)
    STORE/view/overlay/<name>/meta/     what is mounted at /nix/store: directories, links, small
                                        files (links to twins), and stubs of large ones

A stub is an empty file of the right size, mode and time whose extended attributes lead overlayfs to
a file of the blob directory: `user.overlay.metacopy` and `user.overlay.redirect`
(Documentation/filesystems/overlayfs.rst, "Data-only lower layers"). However many paths a closure
has, a start makes one mount, where the bind view makes one for each. Needs a kernel that follows
such stubs without privileges (6.16), and a file system with extended attributes for the store.

Constraint: stubs lead to files by name, so a view is dropped before blobs are (`gc.py` and
`repair.py` of `eka_runtime/store/`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eka_runtime.castore.checkout import DIRECTORY_MODE, Linker, checkout
from eka_runtime.castore.placing import MTIME_NS
from eka_runtime.errors import StoreAccessError
from eka_runtime.nix.path import STORE_DIR
from eka_runtime.store.closure_views import closure_of, keep_closure, make_view, view_name
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.plan import ViewMount, ViewPlan

STRATEGY = "overlay"
META = "meta"

# What separates layers, and options, in the text that mount(2) gets.
_SPECIAL = set(":,\\")


class OverlayView(NamedTuple):
    """A ViewStrategy over one open store."""

    store: Store

    def fits(self) -> bool:
        """Whether the store's own path can be said in mount options."""
        return not _SPECIAL & set(os.fspath(self.store.root))

    def plan(self, infos: Sequence[PathInfo]) -> ViewPlan:
        """Raises StoreAccessError when the view cannot be written, or cannot be there."""
        layout = self.store.layout
        if not self.fits():
            raise StoreAccessError(
                f"no overlay can be made over `{layout.root}`: its name has one of `:,\\`",
                hint="move the store, or use `--view bind`",
            )
        closure = closure_of(infos)
        place = layout.overlay_view / view_name(closure)
        try:
            if (place / META).is_dir():
                keep_closure(place, closure)
            else:
                make_view(place, closure, lambda fresh: self._fill(fresh / META, infos))
        except OSError as error:
            raise StoreAccessError(
                f"cannot write the view `{place}`: {error.strerror}",
                hint="free some space, use `--view bind`, or another store with `--store DIR`",
            ) from error
        mount = ViewMount(os.fspath(place / META), STORE_DIR, True, os.fspath(layout.blobs))
        return ViewPlan(STRATEGY, (mount,), ())

    def _fill(self, meta: Path, infos: Sequence[PathInfo]) -> None:
        store = self.store
        meta.mkdir()
        with Linker(store.layout.twins, stubs=True) as linker:
            for info in infos:
                place = meta / info.path.base
                checkout(info.node, place, store.blobs, store.directories, link=linker)
            meta.chmod(DIRECTORY_MODE)
            os.utime(meta, ns=(MTIME_NS, MTIME_NS))
            linker.settle()
