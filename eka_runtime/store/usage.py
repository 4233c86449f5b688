"""How much a store holds, what that takes on disk, and what sharing saves.

`nar_bytes` counts every path in full, as a directory of unpacked paths would have to hold it. Disk
bytes are allocated blocks, each inode once: the checkouts below view/ are mostly hard links.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

_BLOCK = 512  # the unit of st_blocks, whatever the file system


class Usage(NamedTuple):
    """`saved_fraction` may be negative: a small store is mostly its database."""

    paths: int
    nar_bytes: int
    blobs: int
    blob_bytes: int
    disk_bytes: int

    @property
    def saved_fraction(self) -> float:
        return 1 - self.disk_bytes / self.nar_bytes if self.nar_bytes else 0.0

    def record(self) -> dict[str, object]:
        return {
            "paths": self.paths,
            "narBytes": self.nar_bytes,
            "blobs": self.blobs,
            "blobBytes": self.blob_bytes,
            "diskBytes": self.disk_bytes,
            "savedBytes": self.nar_bytes - self.disk_bytes,
        }


def measure(store: Store) -> Usage:
    conn = store.database.connection
    paths, nar_bytes = conn.execute("SELECT count(*), total(nar_size) FROM path").fetchone()
    blobs, blob_bytes = conn.execute("SELECT count(*), total(size) FROM blob").fetchone()
    return Usage(paths, int(nar_bytes), blobs, int(blob_bytes), _allocated(store.root))


def _allocated(root: Path) -> int:
    seen: set[int] = set()
    total = 0
    for status in _statuses(root):
        if status.st_nlink > 1:
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
        total += status.st_blocks * _BLOCK
    return total


def _statuses(root: Path) -> Iterator[os.stat_result]:
    yield os.stat(root)
    pending = [os.fspath(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
