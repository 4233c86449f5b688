"""Removing for good: rows that are dead, their files and packed bytes, and what crashes left.

A row goes first, in a transaction of its own; then what it led to. A crash in between leaves a file
or a gap without a row, which is what any other crash leaves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eka_runtime.castore.checkout import NEW_PREFIX
from eka_runtime.castore.epochs import oldest
from eka_runtime.castore.node import Directory
from eka_runtime.castore.packs import pack_name, pack_number, reclaim
from eka_runtime.castore.removal import remove_tree
from eka_runtime.errors import CastoreError
from eka_runtime.store.layout import FUSE_CLOSURE

if TYPE_CHECKING:
    from eka_runtime.store.layout import Layout
    from eka_runtime.store.store import Store

OLD_PREFIX = ".old-"

_CHUNK = 1000


class Swept(NamedTuple):
    """`size`: bytes of contents; `disk`: bytes of disk space."""

    blobs: int = 0
    size: int = 0
    disk: int = 0

    def plus(self, other: Swept) -> Swept:
        return Swept(*(a + b for a, b in zip(self, other, strict=True)))


class Leftovers(NamedTuple):
    """What lay there when a collection began: `files` in blobs/, packs, checkouts, and what was
    in the making."""

    files: list[str]
    packs: list[str]
    checkouts: list[str]
    making: list[Path]


def sweep(store: Store) -> Swept:
    """Removes what was marked as dead before everybody came who is at work."""
    database = store.database
    before = oldest(store.layout.epochs, database.epoch())
    done, packs = Swept(), set[int]()
    while True:
        with database.transaction() as conn:
            rows = conn.execute(
                "select digest, size, name, pack from blob where dead < ? limit ?",
                (before, _CHUNK),
            ).fetchall()
            conn.executemany("delete from blob where digest = ?", [row[:1] for row in rows])
            conn.execute("delete from directory where dead < ?", (before,))
            moved = conn.execute("delete from moved where dead < ? returning pack", (before,))
            packs.update(pack for (pack,) in moved)
        if not rows:
            break
        packs.update(pack for *_, pack in rows if pack is not None)
        disk = _unlink(store.layout.blobs, [name for _, _, name, _ in rows if name])
        done = done.plus(Swept(len(rows), sum(size for _, size, _, _ in rows), disk))
    disk = sum(_reclaim(store, pack_name(pack)) for pack in packs)
    return done.plus(Swept(disk=disk + _drop_twins(store.layout)))


def leftovers(layout: Layout) -> Leftovers:
    """To be called before the epoch ends: whatever of this still has no row when all those are
    gone who came until then, belongs to nobody."""
    files = [
        f"{shard.name}/{entry.name}"
        for shard in os.scandir(layout.blobs)
        for entry in os.scandir(shard.path)
    ]
    making = [layout.tmp / name for name in os.listdir(layout.tmp)]
    making += [file for file in layout.root.glob(f"{layout.database.name}.*")]
    checkouts = _listed(layout.bind_view)
    for directory in (layout.bind_view, layout.twins, layout.fuse_view):
        names = checkouts if directory == layout.bind_view else _listed(directory)
        making += [directory / n for n in names if n.startswith((NEW_PREFIX, OLD_PREFIX))]
    packs = [name for name in os.listdir(layout.packs) if pack_number(name)]
    return Leftovers(files, packs, checkouts, making)


def _listed(directory: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return os.listdir(directory)
    return []


def remove_leftovers(store: Store, old: Leftovers) -> Swept:
    conn = store.database.connection
    statement = "select 1 from blob where name = ?"
    orphans = [name for name in old.files if not conn.execute(statement, (name,)).fetchone()]
    disk = _unlink(store.layout.blobs, orphans)
    disk += sum(_reclaim(store, name) for name in old.packs if _has_tail(store, name))
    statement = "select 1 from path where hash || '-' || name = ?"
    stray = [name for name in old.checkouts if not conn.execute(statement, (name,)).fetchone()]
    for place in [*old.making, *(store.layout.bind_view / name for name in stray)]:
        remove_tree(place)
    _drop_fuse_views(store)
    return Swept(disk=disk)


def _drop_fuse_views(store: Store) -> None:
    """Removes those that mention a path which is gone; where one is in use, all are wanted."""
    views = store.layout.fuse_view
    for name in _listed(views):
        if name.startswith((NEW_PREFIX, OLD_PREFIX)) or _is_whole(store, views / name):
            continue
        old = views / f"{OLD_PREFIX}{os.urandom(8).hex()}"
        with suppress(FileNotFoundError):
            os.rename(views / name, old)
        remove_tree(old)


def _is_whole(store: Store, view: Path) -> bool:
    try:
        closure = Directory.decode((view / FUSE_CLOSURE).read_bytes())
    except (OSError, CastoreError):
        return False
    statement = "select 1 from path where hash || '-' || name = ?"
    conn = store.database.connection
    names = (name.decode(errors="replace") for name, _ in closure.entries)
    return all(conn.execute(statement, (name,)).fetchone() for name in names)


def _has_tail(store: Store, name: str) -> bool:
    """Whether a pack ends with bytes that no row mentions."""
    try:
        size = (store.layout.packs / name).stat().st_size
    except FileNotFoundError:
        return False
    (end,) = store.database.connection.execute(
        "select max(start + coalesce(stored, size)) from blob where pack = ?", (pack_number(name),)
    ).fetchone()
    return end is None or size > end


def _reclaim(store: Store, name: str) -> int:
    number = pack_number(name)
    rows = store.database.connection.execute(
        "select start, start + coalesce(stored, size) as end from blob where pack = ?"
        " union all select start, start + stored from moved where pack = ? order by 1",
        (number, number),
    )
    return reclaim(store.layout.packs / name, rows) or 0


def _unlink(blobs: Path, names: Iterable[str]) -> int:
    """Returns the disk space that this gives back: none while a checkout has the file, too."""
    freed = 0
    for name in names:
        with suppress(FileNotFoundError):
            status = os.lstat(blobs / name)
            os.unlink(blobs / name)
            freed += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return freed


def _drop_twins(layout: Layout) -> int:
    """Removes twins that no checkout uses."""
    freed = 0
    with suppress(FileNotFoundError):
        for shard in os.scandir(layout.twins):
            if shard.name.startswith(NEW_PREFIX):
                continue
            for entry in os.scandir(shard.path):
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink == 1:
                    with suppress(FileNotFoundError):
                        os.unlink(entry.path)
                        freed += status.st_blocks * 512
    return freed
