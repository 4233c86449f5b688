"""Where builds take place on disk, and who may: directories and locks that survive crashes.

    STORE/build/shop-<random>/          one scheduler's; flock(2) while it lives
      <number>/store top tmp            one build: what lies at /nix/store, /build and /tmp
      <number>.log                      its log in the making
      rootfs-<number>/rootfs            what bundles of one kind have in common
    STORE/build/<hash>.lock             flock(2) by whoever builds that output
    STORE/kept/<name>-<random>/         a failed build, as a bundle (`--keep-failed`)

The kernel drops the locks of the dead. A workshop without a lock is swept by the next scheduler,
and so is the file of a lock that nobody holds; else whoever held it removes it.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from eka_runtime.castore.removal import remove_tree
from eka_runtime.closing import Closing
from eka_runtime.oci.rootfs import RootfsEntry, write_entries
from eka_runtime.store.layout import access_errors
from eka_runtime.store.store import Store

_SHOP = "shop-"


class Place(NamedTuple):
    """The directories of one build."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def top(self) -> Path:
        return self.root / "top"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def log(self) -> Path:
        """In the making; beside the others, since they may go, or be kept, before it is whole."""
        return self.root.with_name(f"{self.root.name}.log")


class Workshop(Closing):
    """One scheduler's; a context manager that leaves nothing behind."""

    def __init__(self, store: Store) -> None:
        store.require_writable()
        self._directory = store.layout.root / "build"
        self._layout = store.layout
        with access_errors(self._layout):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._sweep()
            self._root, self._lock = self._claim()
        self._numbers = count()
        self._guard = threading.Lock()
        self._rootfs: dict[tuple[RootfsEntry, ...], Path] = {}

    def place(self) -> Place:
        """A fresh one; to be given back with `clear`."""
        place = Place(self._root / str(next(self._numbers)))
        with access_errors(self._layout):
            for directory, mode in (
                (place.root, 0o700),
                (place.store, 0o755),
                (place.top, 0o700),
                (place.tmp, 0o1777),
            ):
                directory.mkdir()
                directory.chmod(mode)
        return place

    def clear(self, place: Place) -> None:
        with access_errors(self._layout):
            remove_tree(place.root)

    def bundle_dir(self, rootfs: tuple[RootfsEntry, ...]) -> Path:
        """A directory with this rootfs/ in it, made once."""
        with self._guard:
            if (found := self._rootfs.get(rootfs)) is None:
                found = self._root / f"rootfs-{next(self._numbers)}"
                with access_errors(self._layout):
                    (found / "rootfs").mkdir(parents=True)
                    write_entries(found / "rootfs", rootfs)
                self._rootfs[rootfs] = found
            return found

    def keep(self, place: Place, name: str) -> Place:
        """Moves a place to where it stays until somebody removes it."""
        kept = self._layout.root / "kept" / f"{name}-{os.urandom(4).hex()}"
        with access_errors(self._layout):
            kept.parent.mkdir(mode=0o700, exist_ok=True)
            os.rename(place.root, kept)
        return Place(kept)

    def close(self) -> None:
        remove_tree(self._root)
        os.close(self._lock)

    def _claim(self) -> tuple[Path, int]:
        while True:
            root = self._directory / f"{_SHOP}{os.urandom(8).hex()}"
            root.mkdir(mode=0o700)
            lock = _flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock is not None:
                return root, lock
            # A sweep took it for a dead one's before we had the lock.

    def _sweep(self) -> None:
        for place in list(self._directory.glob("*.lock")):
            lock = _flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock is not None:
                place.unlink(missing_ok=True)
                os.close(lock)
        for entry in list(self._directory.glob(f"{_SHOP}*")):
            # Parts of a tree, which its removal has moved up, are those of a dead one.
            shop = entry.with_name(entry.name.partition(".")[0])
            with suppress(FileNotFoundError):
                if shop != entry and shop.exists():
                    continue
                lock = _flock(entry, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock is not None:
                    remove_tree(entry)
                    os.close(lock)


@contextmanager
def output_lock(store: Store, digits: str, wait: bool = True) -> Iterator[bool]:
    """Held by one process at a time; False, and not held, if another has it and `wait` is false.

    `digits` are the hash part of an output's path, or of a derivation whose outputs have none yet.
    """
    with access_errors(store.layout):
        place = store.layout.root / "build" / f"{digits}.lock"
        place.parent.mkdir(mode=0o700, exist_ok=True)
    flags = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    lock: int | None = None
    while lock is None:
        with access_errors(store.layout):
            place.touch()
            lock = _flock(place, flags)
        if lock is None and not wait:
            yield False
            return
    try:
        yield True
    finally:
        # While it is held: whoever waits for it finds that it is not this name's file any more.
        place.unlink(missing_ok=True)
        os.close(lock)


def _flock(place: Path, operation: int) -> int | None:
    """The locked descriptor; None if another has it, or if it is no longer what is at `place`."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, operation)
        if os.path.samestat(os.fstat(fd), os.stat(place)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None
