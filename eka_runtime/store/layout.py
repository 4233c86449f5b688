"""Where everything lies in a store directory, and the protocol that keeps it whole.

    STORE/
      format                  "eka-store 2"; written last, so its presence means "this is a store"
      lock                    flock: held exclusively by the one process that collects garbage
      db.sqlite               blobs, directories, path infos, roots (WAL)
      db.sqlite-wal, -shm     SQLite's own
      blobs/xx/yyyy…          contents of large files, each one inode
      packs/<number>          contents of small files, many in each
      epochs/<number>         flock: held shared by every process that is at work (`epochs.py`)
      tmp/                    files in the making
      view/bind/nix/store/    checkouts, for binding at /nix/store
      view/twin/xx/yyyy…      inodes of small blobs, and second ones of large blobs
      view/fuse/<name>/       closures, for a file system that shows them
      view/overlay/<name>/    closures as trees, in which large files are places of blobs

A path becomes valid in four steps: its contents are written; they get their places, which no row
mentions; syncfs(2) makes them durable; one transaction inserts the rows of its blobs, its
directories and, last, its path info. Whoever reads the row can rely on everything below it. A crash
before the commit leaves files and packed bytes that no row mentions; the next collection removes
them. Processes never wait for each other, except for SQLite's lock while rows are inserted.

view/ is a cache and may be deleted while nothing runs. Everything else may be copied or moved while
no process has the store open. The directory must be on a local file system: flock and WAL need
coherent memory. Out of scope: what the rows mean (castore/, pathinfo.py).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from eka_runtime.errors import StoreAccessError, StoreError, StoreFormatError
from eka_runtime.linux.syscalls import syncfs

FORMAT = "eka-store 2"

_FORMAT_MAX = 100
_DIRECTORIES = ("blobs", "packs", "epochs", "tmp", "view")
_SKELETON = {*_DIRECTORIES, "lock"}


class Layout(NamedTuple):
    """The names in a store directory; `root` is absolute."""

    root: Path

    @property
    def format_file(self) -> Path:
        return self.root / "format"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def database(self) -> Path:
        return self.root / "db.sqlite"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def packs(self) -> Path:
        return self.root / "packs"

    @property
    def epochs(self) -> Path:
        return self.root / "epochs"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def views(self) -> Path:
        return self.root / "view"

    @property
    def bind_view(self) -> Path:
        return self.client_root / "nix" / "store"

    @property
    def client_root(self) -> Path:
        """Where the checkouts are at nix/store; no part of that is a link, or Nix refuses it."""
        return self.views / "bind"

    @property
    def twins(self) -> Path:
        return self.views / "twin"

    @property
    def fuse_view(self) -> Path:
        return self.views / "fuse"

    @property
    def overlay_view(self) -> Path:
        return self.views / "overlay"

    @property
    def closure_views(self) -> tuple[Path, ...]:
        return self.fuse_view, self.overlay_view


def default_store_dir(environ: Mapping[str, str]) -> Path:
    """$EKA_STORE, else $XDG_DATA_HOME/eka/store, else ~/.local/share/eka/store."""
    if environ.get("EKA_STORE"):
        return Path(environ["EKA_STORE"]).absolute()
    data = environ.get("XDG_DATA_HOME", "")
    # The XDG base directory specification: relative values are invalid and ignored.
    base = Path(data) if data.startswith("/") else _home(environ) / ".local/share"
    return base / "eka" / "store"


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or Path.home())


def open_layout(root: Path, *, create: bool) -> Layout:
    """Checks the format, or makes a new store. Creating is idempotent and safe to race.

    Raises StoreFormatError for what is no store or one of another format, and touches nothing
    then; StoreError when there is nothing and `create` is false; StoreAccessError.
    """
    layout = Layout(root.absolute())
    with access_errors(layout):
        if not _has_format(layout):
            if not create:
                raise _missing(layout)
            _refuse_foreign(layout)
            _create(layout)
            _has_format(layout)
    return layout


def _missing(layout: Layout) -> StoreError:
    if os.path.lexists(layout.root) and os.listdir(layout.root):
        return _not_a_store(layout)
    return StoreError(
        f"there is no store at `{layout.root}`",
        hint="add something with `eka store add PATH`, or name another store with `--store DIR`",
    )


def _not_a_store(layout: Layout) -> StoreFormatError:
    return StoreFormatError(
        f"`{layout.root}` is not an eka store: it has no `format` file",
        hint="name an empty or a new directory with `--store DIR`",
    )


def _has_format(layout: Layout) -> bool:
    try:
        with open(layout.format_file, "rb") as file:
            data = file.read(_FORMAT_MAX)
    except FileNotFoundError:
        return False
    if data != FORMAT.encode() + b"\n":
        found = data.decode("utf-8", "backslashreplace").strip()
        raise StoreFormatError(
            f"`{layout.root}` has the store format `{found}`, this eka knows `{FORMAT}`",
            hint="use the version of eka that made it, or another store with `--store DIR`",
        )
    return True


def _refuse_foreign(layout: Layout) -> None:
    # A store is never begun among files that are not its own; the names of an interrupted
    # creation, which had not come to `format`, are.
    with suppress(FileNotFoundError):
        if set(os.listdir(layout.root)) - _SKELETON:
            # Another process may have finished between our two looks.
            if layout.format_file.exists():
                return
            raise _not_a_store(layout)


def _create(layout: Layout) -> None:
    layout.root.mkdir(parents=True, exist_ok=True)
    complete(layout)
    fresh = layout.tmp / f"format-{os.urandom(8).hex()}"
    try:
        with open(fresh, "xb") as file:
            file.write(FORMAT.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, layout.format_file)
        except (FileExistsError, FileNotFoundError):
            # Another process was first; a collection may even have removed our file since.
            if not layout.format_file.exists():
                raise
        sync_directory(layout.root)
    finally:
        fresh.unlink(missing_ok=True)


def complete(layout: Layout) -> None:
    """Makes directories that are missing: views may be deleted, and copies lose empty ones."""
    with access_errors(layout):
        for name in _DIRECTORIES:
            with suppress(FileExistsError):
                (layout.root / name).mkdir()


def sync_directory(directory: Path) -> None:
    """Makes the names in it durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(directory: Path) -> None:
    """Makes all that was written there durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def is_writable(layout: Layout) -> bool:
    """False for a store of another user, or one on a read-only file system."""
    return os.access(layout.root, os.W_OK | os.X_OK, effective_ids=True)


def require_own(layout: Layout) -> None:
    """Raises StoreAccessError where nothing may be removed.

    Deleting follows no links: neither another user's, nor those that people make for space.
    """
    owner = os.stat(layout.root).st_uid
    if owner != os.geteuid():
        raise StoreAccessError(
            f"the store `{layout.root}` belongs to user {owner}, who alone may remove things",
            hint=f"run it as that user, for instance with `sudo -u '#{owner}' eka store …`",
        )
    farm = (layout.client_root, layout.bind_view.parent, layout.bind_view)
    views = (layout.views, *farm, layout.twins, *layout.closure_views)
    for directory in (layout.blobs, layout.packs, layout.epochs, layout.tmp, *views):
        if os.path.islink(directory):
            raise StoreAccessError(
                f"`{directory}` is a symbolic link, behind which nothing is deleted",
                hint="move the whole store instead, and name it with `--store DIR`",
            )


@contextmanager
def collector_lock(layout: Layout) -> Iterator[None]:
    """For the one process that may remove things; waits for another one to finish."""
    with access_errors(layout):
        fd = os.open(layout.lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def access_errors(layout: Layout) -> Iterator[None]:
    """Turns an OSError into StoreAccessError with advice that fits."""
    try:
        yield
    except BrokenPipeError:
        # Not the store's: of whoever is told how it goes.
        raise
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else os.fspath(layout.root)
        raise StoreAccessError(
            f"cannot use the store `{layout.root}`: {where}: {error.strerror}",
            hint=f"free some space, get the rights to `{layout.root}`, or use `--store DIR`",
        ) from error
