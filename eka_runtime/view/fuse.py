"""The fuse view: a file system of the launcher's own shows the closure, and nothing is checked out.

    STORE/view/fuse/<name>/closure    a castore Directory that has all the store paths
    STORE/view/fuse/<name>/mount/     an empty directory, where launchers mount it for themselves

<name> and closure: `eka_runtime/store/closure_views.py`. The plan binds
`mount` at /nix/store. Whoever starts the bundle first mounts there, in a mount namespace that only
the processes of this run see, and starts a server beside the program (`fuse_server.py`). So a view
costs two small files however large the closure is, contents are read when they are asked for, and
each is verified. Without a launcher that mounts (the direct mode, a runtime by hand) the store is
an empty directory. Constraint: like every view this is a cache; collections remove those views of
which a path is gone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from eka_runtime.errors import StoreAccessError
from eka_runtime.nix.path import STORE_DIR
from eka_runtime.store.closure_views import closure_of, keep_closure, make_view, view_name
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.plan import ViewMount, ViewPlan

STRATEGY = "fuse"
MOUNT = "mount"


class FuseView(NamedTuple):
    """A ViewStrategy over one open store."""

    store: Store

    def plan(self, infos: Sequence[PathInfo]) -> ViewPlan:
        """Raises StoreAccessError when the view cannot be written."""
        closure = closure_of(infos)
        place = self.store.layout.fuse_view / view_name(closure)
        try:
            if (place / MOUNT).is_dir():
                keep_closure(place, closure)
            else:
                make_view(place, closure, lambda fresh: (fresh / MOUNT).mkdir())
        except OSError as error:
            raise StoreAccessError(
                f"cannot write the view `{place}`: {error.strerror}",
                hint="free some space, or give a store you can write with `--store DIR`",
            ) from error
        mount = ViewMount(os.fspath(place / MOUNT), STORE_DIR, True)
        return ViewPlan(STRATEGY, (mount,), ())
