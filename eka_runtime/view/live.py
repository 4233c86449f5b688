"""The live view: one directory that shows the store while it grows, to whoever adds to it.

The daemon's clients read files themselves, and what they have just added must be there. So each
path gets its checkout of the bind view (`bind.py`) before the client is told of it, and clients see
all checkouts:

    STORE/view/bind      the root directory for clients outside of bundles; it has nix/store

Inside a bundle STORE/view/bind/nix/store is bound at /nix/store, read-only: new names appear there,
too.

Constraint: as all views, a cache. Paths that a collection removes disappear from it.

Small files that come by the thousand get their names before they are durable. So as long as a
daemon is at work a mark says of which boot the view is, and whoever finds one of another boot,
after a loss of power, drops all checkouts (`bind.py`):

    STORE/view/unsettled-<random>        the boot's id
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from eka_runtime.castore.checkout import NEW_PREFIX
from eka_runtime.castore.placing import finish, write_all
from eka_runtime.errors import StoreAccessError
from eka_runtime.nix.path import STORE_DIR, StorePath
from eka_runtime.store.layout import Layout, sync_directory, sync_file_system
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.bind import UNSETTLED, BindView, boot_id
from eka_runtime.view.plan import ViewMount, ViewPlan

STRATEGY = "live"
_AT_ONCE = 256


class LiveView(NamedTuple):
    """Over one open store."""

    store: Store

    def root(self) -> Path:
        """The directory that clients name as root of their store; made if it is not there.

        Without links on the way, which Nix 2.26 refuses to follow. Raises StoreAccessError.
        """
        layout = self.store.layout
        try:
            layout.bind_view.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(layout.bind_view, error) from error
        return layout.client_root.resolve()

    @property
    def confined(self) -> bool:
        return False

    def allows(self, path: StorePath) -> bool:
        """All that is in the store is for whom it is shown to."""
        return True

    def show(self, info: PathInfo) -> None:
        """That path, and if it was not shown before, its closure."""
        if not os.path.lexists(self.store.layout.bind_view / info.path.base):
            others = map(self.store.info, self.store.closure([info.path]))
            BindView(self.store).check_out(others)

    def show_file(self, info: PathInfo, data: bytes) -> None:
        """As `show`, for a file that is not executable and not in the store yet.

        Inside `growing` only.
        """
        place = self.store.layout.bind_view / info.path.base
        fresh = f"{self.store.layout.bind_view}/{NEW_PREFIX}{os.urandom(8).hex()}"
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                write_all(fd, data)
                finish(fd, False)
            finally:
                os.close(fd)
            os.rename(fresh, place)
        except OSError as error:
            with suppress(OSError):
                os.unlink(fresh)
            raise _cannot_write(place, error) from error

    def show_all(self, progress: Callable[[int], object] = lambda paths: None) -> None:
        """Every path that is valid now; `progress` is told how many there are by and by."""
        done = 0
        for some in _chunks(self.store.paths.all()):
            BindView(self.store).check_out(some)
            done += len(some)
            progress(done)

    def plan(self) -> ViewPlan:
        """For a bundle; `show_all` before."""
        self.root()
        mount = ViewMount(os.fspath(self.store.layout.bind_view), STORE_DIR, True)
        return ViewPlan(STRATEGY, (mount,), ())


@contextmanager
def growing(layout: Layout) -> Iterator[type[LiveView]]:
    """Lends the LiveView for `show_file`: meanwhile a mark is there. Raises StoreAccessError."""
    mark = layout.views / f"{UNSETTLED}{os.urandom(8).hex()}"
    try:
        layout.bind_view.mkdir(parents=True, exist_ok=True)
        mark.write_text(boot_id())
        sync_directory(mark.parent)
    except OSError as error:
        raise _cannot_write(mark, error) from error
    try:
        yield LiveView
    finally:
        with suppress(OSError):
            # What was never committed has a name, too.
            sync_file_system(mark.parent)
            mark.unlink()


def _cannot_write(place: Path, error: OSError) -> StoreAccessError:
    return StoreAccessError(
        f"cannot write the view `{place}`: {error.strerror}",
        hint="free some space, or give a store you can write with `--store DIR`",
    )


def _chunks(infos: Iterable[PathInfo]) -> Iterable[list[PathInfo]]:
    some: list[PathInfo] = []
    for info in infos:
        some.append(info)
        if len(some) == _AT_ONCE:
            yield some
            some = []
    if some:
        yield some
