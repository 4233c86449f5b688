"""The fuse view: a file system of the launcher's own shows the closure, and nothing is checked out.

    STORE/view/fuse/<name>/closure    a castore Directory that has all the store paths
    STORE/view/fuse/<name>/mount/     an empty directory, where launchers mount it for themselves

<name> is the nixbase32 of 20 bytes of the Directory's digest, so a closure has one. The plan binds
`mount` at /nix/store. Whoever starts the bundle first mounts there, in a mount namespace that only
the processes of this run see, and starts a server beside the program (`fuse_server.py`). So a view
costs two small files however large the closure is, contents are read when they are asked for, and
each is verified. Without a launcher that mounts (the direct mode, a runtime by hand) the store is
an empty directory. Constraint: like every view this is a cache; collections remove those views of
which a path is gone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eka_runtime.castore.checkout import NEW_PREFIX
from eka_runtime.castore.node import Directory
from eka_runtime.castore.removal import remove_tree
from eka_runtime.errors import StoreAccessError
from eka_runtime.nix import base32
from eka_runtime.nix.path import STORE_DIR
from eka_runtime.store.layout import FUSE_CLOSURE
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.plan import ViewMount, ViewPlan

STRATEGY = "fuse"
MOUNT = "mount"

_NAME_BYTES = 20


class FuseView(NamedTuple):
    """A ViewStrategy over one open store."""

    store: Store

    def plan(self, infos: Sequence[PathInfo]) -> ViewPlan:
        """Raises StoreAccessError when the view cannot be written."""
        nodes = {info.path.base.encode(): info.node for info in infos}
        closure = Directory.build(nodes.items())
        place = self.store.layout.fuse_view / base32.encode(closure.digest[:_NAME_BYTES])
        try:
            if not (place / MOUNT).is_dir():
                _write(closure, place)
        except OSError as error:
            raise StoreAccessError(
                f"cannot write the view `{place}`: {error.strerror}",
                hint="free some space, or give a store you can write with `--store DIR`",
            ) from error
        mount = ViewMount(os.fspath(place / MOUNT), STORE_DIR, True)
        return ViewPlan(STRATEGY, (mount,), ())


def _write(closure: Directory, place: Path) -> None:
    """A directory with both at once. Not durable: a file that is damaged is noticed when served."""
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.parent / f"{NEW_PREFIX}{os.urandom(8).hex()}"
    try:
        (fresh / MOUNT).mkdir(parents=True)
        (fresh / FUSE_CLOSURE).write_bytes(closure.encode())
        os.rename(fresh, place)
    except OSError as error:
        # Another process was first, with the same content.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    finally:
        remove_tree(fresh)
