"""The bind view: each store path is checked out once, and bound read-only at every launch.

Works on every kernel and costs a fraction of a millisecond per path and launch. A checkout is a
tree of hard links to the store's blobs, so it takes directory entries and no file data:

    STORE/view/bind/nix/store/<hash>-<name>     the checkout; complete once it has this name
    STORE/view/bind/nix/store/.new-<random>     one in the making; dropped when it loses a race
    STORE/view/unsettled-<random>     a mark: some may not be complete after a loss of power
    STORE/view/twin/xx/…              second inodes of blobs that occur with both modes

A checkout has its name only when it is durable, so whatever has a name is complete also after a
loss of power; where the live view was at work then (`live.py`), all checkouts are dropped. It is
renamed inside one directory because rename(2) of a read-only directory to another parent is refused
to its owner (the ".." entry would change).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from eka_runtime.castore.checkout import NEW_PREFIX, Linker, checkout
from eka_runtime.castore.node import DirectoryNode, SymlinkNode
from eka_runtime.castore.removal import remove_tree
from eka_runtime.errors import StoreAccessError
from eka_runtime.store.layout import sync_directory
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.store.sweep import OLD_PREFIX
from eka_runtime.view.plan import ViewLink, ViewMount, ViewPlan

UNSETTLED = "unsettled-"


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
                source = os.fspath(self._place(info))
                mounts.append(ViewMount(source, str(info.path), directory))
        self.check_out(info for info in ordered if not isinstance(info.node, SymlinkNode))
        return ViewPlan("bind", tuple(mounts), tuple(links))

    def check_out(self, infos: Iterable[PathInfo]) -> None:
        """Makes those checkouts that are not there. Safe beside other processes."""
        self._drop_torn()
        missing = [info for info in infos if not os.path.lexists(self._place(info))]
        if not missing:
            return
        farm = self.store.layout.bind_view
        fresh = {info: farm / f"{NEW_PREFIX}{os.urandom(8).hex()}" for info in missing}
        try:
            farm.mkdir(parents=True, exist_ok=True)
            # All at once: however many they are, they wait for the disk only once.
            self._make_all(fresh)
        except OSError as error:
            names = ", ".join(str(info.path) for info in missing[:3])
            raise StoreAccessError(
                f"cannot check out {names} into `{farm}`: {error.strerror}",
                hint="free some space, or give a store you can write with `--store DIR`",
            ) from error
        finally:
            for place in fresh.values():
                remove_tree(place)

    def _place(self, info: PathInfo) -> Path:
        return self.store.layout.bind_view / info.path.base

    def _drop_torn(self) -> None:
        """Checkouts that were in the making when the machine went down."""
        layout = self.store.layout
        marks = [place for place in _marks(layout.views) if _of_another_boot(place)]
        if not marks:
            return
        old = layout.twins / f"{OLD_PREFIX}{os.urandom(8).hex()}"
        try:
            layout.twins.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                os.rename(layout.bind_view, old)
                sync_directory(layout.bind_view.parent)
            for mark in marks:
                mark.unlink(missing_ok=True)
            remove_tree(old)
        except OSError as error:
            raise StoreAccessError(
                f"cannot remove the view `{layout.bind_view}`, which may be damaged since the"
                f" machine went down: {error.strerror}",
                hint="remove it as the owner of the store",
            ) from error

    def _make_all(self, fresh: dict[PathInfo, Path]) -> None:
        store = self.store
        with Linker(store.layout.twins) as linker:
            for info, place in fresh.items():
                checkout(info.node, place, store.blobs, store.directories, link=linker)
            linker.settle()
        for info, place in fresh.items():
            _rename_once(place, self._place(info))


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _marks(views: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [views / name for name in os.listdir(views) if name.startswith(UNSETTLED)]
    return []


def _of_another_boot(mark: Path) -> bool:
    try:
        return mark.read_text() != boot_id()
    except FileNotFoundError:
        return False  # its daemon has ended well


def _rename_once(fresh: Path, done: Path) -> None:
    try:
        if stat.S_ISDIR(os.lstat(fresh).st_mode):
            os.rename(fresh, done)
        else:
            os.link(fresh, done, follow_symlinks=False)
    except OSError as error:
        # Another process was first; its checkout has the same content by construction.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
