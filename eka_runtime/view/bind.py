"""The bind view: each store path is checked out once, and bound read-only at every launch.

Works on every kernel and costs a fraction of a millisecond per path and launch. A checkout is a
tree of hard links to the store's blobs, so it takes directory entries and no file data:

    STORE/view/bind/<hash>-<name>     the checkout; complete once it has this name
    STORE/view/bind/.new-<random>     one in the making; dropped when it loses a race
    STORE/view/twin/xx/…              second inodes of blobs that occur with both modes

A checkout is renamed inside one directory because rename(2) of a read-only directory to another
parent is refused to its owner (the ".." entry would change).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eka_runtime.castore.checkout import Linker, checkout
from eka_runtime.castore.node import DirectoryNode, SymlinkNode
from eka_runtime.errors import StoreAccessError
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.plan import ViewLink, ViewMount, ViewPlan


class BindView(NamedTuple):
    """A ViewStrategy over one open store."""

    store: Store

    def plan(self, infos: Sequence[PathInfo]) -> ViewPlan:
        """Checks out what is missing. Raises StoreAccessError when the view cannot be written."""
        ordered = sorted(infos, key=lambda info: info.path.base)
        mounts, links = [], []
        for info in ordered:
            if isinstance(info.node, SymlinkNode):
                target = os.fsdecode(info.node.target)
                links.append(ViewLink(str(info.path), target))
            else:
                directory = isinstance(info.node, DirectoryNode)
                source = self.checked_out(info)
                mounts.append(ViewMount(os.fspath(source), str(info.path), directory))
        return ViewPlan("bind", tuple(mounts), tuple(links))

    def checked_out(self, info: PathInfo) -> Path:
        """The checkout of a path, made now if it is not there. Safe beside other processes."""
        farm = self.store.layout.bind_view
        done = farm / info.path.base
        if os.path.lexists(done):
            return done
        fresh = farm / f".new-{os.urandom(8).hex()}"
        try:
            farm.mkdir(parents=True, exist_ok=True)
            self._check_out(info, fresh)
            _rename_once(fresh, done)
        except OSError as error:
            raise StoreAccessError(
                f"cannot check out `{info.path}` into `{farm}`: {error.strerror}",
                hint="free some space, or give a store you can write with `--store DIR`",
            ) from error
        finally:
            discard(fresh)
        return done

    def _check_out(self, info: PathInfo, destination: Path) -> None:
        store = self.store
        linker = Linker(store.layout.twins)
        checkout(info.node, destination, store.blobs, store.directories, link=linker)


def _rename_once(fresh: Path, done: Path) -> None:
    try:
        if fresh.is_dir():
            os.rename(fresh, done)
        else:
            os.link(fresh, done)
    except OSError as error:
        # Another process was first; its checkout has the same content by construction.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def discard(tree: Path) -> None:
    """Removes a checkout, whose directories are read-only; absent is fine."""
    if tree.is_dir() and not tree.is_symlink():
        for directory, _, _ in os.walk(tree):
            os.chmod(directory, 0o700)
        shutil.rmtree(tree)
    elif os.path.lexists(tree):
        tree.unlink()
