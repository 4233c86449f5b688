"""Removing for good: rows that are dead, their files and packed bytes, and what crashes left.

A row goes first, in a transaction of its own; then what it led to. A crash in between leaves a file
or a gap without a row, which is what any other crash leaves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from heapq import merge
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eka_runtime.castore.checkout import NEW_PREFIX
from eka_runtime.castore.epochs import oldest
from eka_runtime.castore.extents import extents_end, packs_of_dead, places
from eka_runtime.castore.packs import pack_name, pack_number, reclaim
from eka_runtime.castore.removal import remove_tree
from eka_runtime.errors import InvalidStorePath
from eka_runtime.nix.path import StorePath

if TYPE_CHECKING:
    from eka_runtime.store.layout import Layout
    from eka_runtime.store.store import Store

OLD_PREFIX = ".old-"

_CHUNK = 1000
# What `castore/placing.py` and `layout.py` call files in the making; nothing else is touched.
_MAKING = re.compile(r"[0-9a-f]{32}|format-[0-9a-f]{16}")


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
    packs: list[int]
    checkouts: list[str]
    making: list[Path]


def sweep(store: Store) -> Swept:
    """Removes what was marked as dead before everybody came who is at work."""
    database = store.database
    before = oldest(store.layout.epochs, database.epoch())
    done = Swept()
    while True:
        with database.transaction() as conn:
            rows = conn.execute(
                "select digest, size, name, pack from blob where dead < ? limit ?",
                (before, _CHUNK),
            ).fetchall()
            conn.executemany("delete from blob where digest = ?", [row[:1] for row in rows])
            packs = packs_of_dead(conn, before)
            conn.execute("delete from directory where dead < ?", (before,))
            moved = conn.execute("delete from moved where dead < ? returning pack", (before,))
            packs |= {pack for (pack,) in moved} | {row[3] for row in rows if row[3] is not None}
            conn.executemany("insert or ignore into untidy values (?)", [(one,) for one in packs])
        if not rows:
            break
        disk = _unlink(store.layout.blobs, [name for _, _, name, _ in rows if name])
        done = done.plus(Swept(len(rows), sum(size for _, size, _, _ in rows), disk))
    disk = _tidy(store) + _drop_twins(store.layout)
    return done.plus(Swept(disk=disk))


def _tidy(store: Store) -> int:
    """Those to which somebody is appending have to wait for another time."""
    freed = 0
    for (pack,) in store.database.connection.execute("select pack from untidy").fetchall():
        size = _reclaim(store, pack)
        if size is not None:
            freed += size
            with store.database.transaction() as conn:
                conn.execute("delete from untidy where pack = ?", (pack,))
    return freed


def leftovers(layout: Layout) -> Leftovers:
    """To be called before the epoch ends: whatever of this still has no row when all those are
    gone who came until then, belongs to nobody."""
    files = [
        f"{shard.name}/{entry.name}"
        for shard in os.scandir(layout.blobs)
        # Never through a link: what is behind it is not ours.
        if shard.is_dir(follow_symlinks=False)
        for entry in os.scandir(shard.path)
        if not entry.is_dir(follow_symlinks=False)
    ]
    making = [layout.tmp / name for name in os.listdir(layout.tmp) if _MAKING.fullmatch(name)]
    making += [file for file in layout.root.glob(f"{layout.database.name}.*")]
    for directory in (layout.bind_view, layout.twins, *layout.closure_views):
        unfinished = (NEW_PREFIX, OLD_PREFIX)
        making += [directory / n for n in _listed(directory) if n.startswith(unfinished)]
    packs = [number for name in os.listdir(layout.packs) if (number := pack_number(name))]
    checkouts = [name for name in _listed(layout.bind_view) if _is_base(name)]
    return Leftovers(files, packs, checkouts, making)


def _is_base(name: str) -> bool:
    try:
        StorePath.from_base(name)
    except InvalidStorePath:
        return False
    return True


def _listed(directory: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return os.listdir(directory)
    return []


def remove_leftovers(store: Store, old: Leftovers) -> Swept:
    conn = store.database.connection
    statement = "select 1 from blob where name = ?"
    orphans = [name for name in old.files if not conn.execute(statement, (name,)).fetchone()]
    disk = _unlink(store.layout.blobs, orphans)
    disk += sum(_reclaim(store, pack) or 0 for pack in old.packs if _has_tail(store, pack))
    stray = [_retire_stray(store, base) for base in old.checkouts]
    for place in [*old.making, *filter(None, stray)]:
        remove_tree(place)
    return Swept(disk=disk)


def retire_checkout(layout: Layout, base: str) -> Path | None:
    """Moves a checkout away, to be removed; None if there is none."""
    old = layout.bind_view / f"{OLD_PREFIX}{os.urandom(8).hex()}"
    try:
        os.rename(layout.bind_view / base, old)
    except FileNotFoundError:
        return None
    return old


def _retire_stray(store: Store, base: str) -> Path | None:
    """As `retire_checkout`, for one whose path is not valid; in one transaction with the look."""
    digits, _, name = base.partition("-")
    with store.database.transaction() as conn:
        statement = "select 1 from path where hash = ? and name = ?"
        if conn.execute(statement, (digits, name)).fetchone():
            return None
        return retire_checkout(store.layout, base)


def _has_tail(store: Store, pack: int) -> bool:
    """Whether a pack ends with bytes that no row mentions."""
    try:
        size = (store.layout.packs / pack_name(pack)).stat().st_size
    except FileNotFoundError:
        return False
    conn = store.database.connection
    (end,) = conn.execute(
        "select max(start + coalesce(stored, size)) from blob where pack = ?", (pack,)
    ).fetchone()
    return end is None or size > max(end, extents_end(conn, pack))


def _reclaim(store: Store, pack: int) -> int | None:

    def used() -> Iterator[tuple[int, int]]:
        # Not before `reclaim` has the pack: somebody may append to it and commit until then.
        conn = store.database.connection
        rows = conn.execute(
            "select start, start + coalesce(stored, size) as end from blob where pack = ?"
            " union all select start, start + stored from moved where pack = ? order by 1",
            (pack, pack),
        )
        yield from merge(rows, places(conn, pack))

    return reclaim(store.layout.packs / pack_name(pack), used())


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
            # Never through a link: what is behind it is not ours.
            if shard.name.startswith(NEW_PREFIX) or not shard.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(shard.path):
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink == 1 and not entry.is_dir(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        os.unlink(entry.path)
                        freed += status.st_blocks * 512
    return freed
