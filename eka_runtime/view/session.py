"""The view of one session with the store: what it was given, and what it adds while it runs.

    STORE/tmp/<random>/<hash>-<name>     mount points of inputs, copies of what was added

The directory is bound at /nix/store of a bundle, read-only, and new names appear there while it
runs. Inputs, which may be large, are bound over empty mount points in it; what the session adds is
copied into it before the client is told of it. Copies, because a checkout that others shall find
has to be durable first, which costs more than writing a derivation. A path that is not in the
directory is not there for the session at all (`allows`), whatever else the store has.

Constraint: lives as long as its `with` block; a collection removes what a crash left.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from eka_runtime.castore.checkout import checkout
from eka_runtime.castore.node import DirectoryNode, SymlinkNode
from eka_runtime.castore.removal import remove_tree
from eka_runtime.errors import StoreAccessError
from eka_runtime.nix.path import STORE_DIR, StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.bind import BindView
from eka_runtime.view.plan import ViewMount, ViewPlan

STRATEGY = "session"


class SessionView(NamedTuple):
    """Over one open store; several may be over the same directory, in any process."""

    store: Store
    directory: Path

    @property
    def confined(self) -> bool:
        return True

    def allows(self, path: StorePath) -> bool:
        return os.path.lexists(self.directory / path.base)

    def show(self, info: PathInfo) -> None:
        """That path, and what it refers to. Raises StoreAccessError, StoreCorrupt."""
        if self.allows(info.path):
            return
        if not info.references:
            self._copy(info)
            return
        for path in self.store.closure([info.path]):
            if not self.allows(path):
                self._copy(self.store.info(path))

    def show_file(self, info: PathInfo, data: bytes) -> None:
        """As `show`, for a file that is not executable and not in the store yet."""
        if self.allows(info.path):
            return
        fresh = self.directory / f".{os.urandom(16).hex()}"
        try:
            fresh.write_bytes(data)
            os.rename(fresh, self.directory / info.path.base)
        except OSError as error:
            raise self._cannot_show(info, error) from error

    def _copy(self, info: PathInfo) -> None:
        fresh = self.directory / f".{os.urandom(16).hex()}"
        try:
            try:
                checkout(info.node, fresh, self.store.blobs, self.store.directories, link=None)
                # Whoever was first has the same contents; a directory there is not replaced.
                with suppress(OSError):
                    os.rename(fresh, self.directory / info.path.base)
            finally:
                remove_tree(fresh)
        except OSError as error:
            raise self._cannot_show(info, error) from error

    def _cannot_show(self, info: PathInfo, error: OSError) -> StoreAccessError:
        return StoreAccessError(
            f"cannot show `{info.path}` in `{self.directory}`: {error.strerror}",
            hint="free some space, or use a store elsewhere with `--store DIR`",
        )


@contextmanager
def session_view(
    store: Store, inputs: Iterable[PathInfo]
) -> Iterator[tuple[SessionView, ViewPlan]]:
    """A new session over `inputs`, a closed set, and the mounts of its bundle.

    Raises StoreAccessError when it cannot be made.
    """
    # A name as files in the making have (`castore/placing.py`), for collections.
    directory = store.layout.tmp / os.urandom(16).hex()
    infos = sorted(inputs, key=lambda info: info.path.base)
    try:
        try:
            _make(directory, infos)
        except OSError as error:
            raise StoreAccessError(f"cannot make `{directory}`: {error.strerror}") from error
        bound = BindView(store).plan(infos)
        root = ViewMount(os.fspath(directory), STORE_DIR, True)
        yield SessionView(store, directory), ViewPlan(STRATEGY, (root, *bound.mounts), ())
    finally:
        remove_tree(directory)


def _make(directory: Path, infos: Iterable[PathInfo]) -> None:
    directory.mkdir(mode=0o755)
    for info in infos:
        place = directory / info.path.base
        if isinstance(info.node, SymlinkNode):
            place.symlink_to(os.fsdecode(info.node.target))
        elif isinstance(info.node, DirectoryNode):
            place.mkdir()
        else:
            place.touch()
