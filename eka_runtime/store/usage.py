"""How much a store holds, what that takes on disk, and what sharing saves.

`nar_bytes` counts every path in full, as a directory of unpacked paths would have to hold it. Disk
bytes are allocated blocks, each inode once: the checkouts below view/ are mostly hard links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from eka_runtime.store.layout import Layout
    from eka_runtime.store.store import Store

_BLOCK = 512  # the unit of st_blocks, whatever the file system


class Usage(NamedTuple):
    """Bytes. `disk` is what each part of the store takes; `blob_bytes` are contents, each once.

    `saved_fraction` may be negative: a small store is mostly its database.
    """

    paths: int
    nar_bytes: int
    blobs: int
    blob_bytes: int
    packed_blobs: int
    compressed_bytes: int
    """What compression saves in packs."""
    unneeded_bytes: int
    """Contents that a collection found no use for, and could not remove yet."""
    disk: dict[str, int]

    @property
    def disk_bytes(self) -> int:
        return sum(self.disk.values())

    @property
    def saved_fraction(self) -> float:
        return 1 - self.disk_bytes / self.nar_bytes if self.nar_bytes else 0.0

    def record(self) -> dict[str, object]:
        return {
            "paths": self.paths,
            "narBytes": self.nar_bytes,
            "blobs": self.blobs,
            "blobBytes": self.blob_bytes,
            "packedBlobs": self.packed_blobs,
            "compressedBytes": self.compressed_bytes,
            "unneededBytes": self.unneeded_bytes,
            "disk": self.disk,
            "diskBytes": self.disk_bytes,
            "savedBytes": self.nar_bytes - self.disk_bytes,
        }


def measure(store: Store) -> Usage:
    conn = store.database.connection
    paths, nar_bytes = conn.execute("SELECT count(*), total(nar_size) FROM path").fetchone()
    count, size, packed, saved, dead = conn.execute(
        "SELECT count(*), total(size), count(pack), total(size - stored),"
        " total(CASE WHEN dead IS NULL THEN 0 ELSE size END) FROM blob"
    ).fetchone()
    return Usage(
        paths,
        int(nar_bytes),
        count,
        int(size),
        packed,
        int(saved),
        int(dead),
        _allocated(store.layout),
    )


def _allocated(layout: Layout) -> dict[str, int]:
    """By part; an inode that several parts share counts for the first of them."""
    seen: set[int] = set()
    parts = {"blobs": layout.blobs, "packs": layout.packs, "views": layout.views}
    found = {name: _size(_statuses(place), seen) for name, place in parts.items()}
    found["database"] = _size(_statuses(layout.root, skip=set(parts.values())), seen)
    return found


def _size(statuses: Iterable[os.stat_result], seen: set[int]) -> int:
    total = 0
    for status in statuses:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
        total += status.st_blocks * _BLOCK
    return total


def _statuses(root: Path, skip: Container[Path] = ()) -> Iterator[os.stat_result]:
    yield os.stat(root)
    pending = [os.fspath(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if Path(entry.path) in skip:
                    continue
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
