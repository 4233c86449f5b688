"""The cache of what starts need: bundles and launch records, written whole, kept while in use.

    $XDG_CACHE_HOME/eka/bundle/<digest>/   compiled bundles; any may be deleted when nothing runs
    $XDG_CACHE_HOME/eka/launch/<key>       launch records (eka.warm, eka.record)
    $XDG_CACHE_HOME/eka/tidied             empty; its time is when the cache was tidied last

Each change of a script makes another bundle and another record, so the cache is tidied: once a day
by whoever writes a bundle, and by `eka store gc`. Then what nobody started for a month goes, what
evaluations kept and none used for as long, and what killed starts left. Every start touches its
bundle, and holds a lock on it while it lives.
"""

from __future__ import annotations

import marshal
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from eka import warm
from eka_runtime.castore.removal import remove_tree
from eka_runtime.errors import EkaError, UsageError
from eka_runtime.oci.bundle import Bundle, is_whole, write_bundle
from eka_runtime.store.bundles import OLD_PREFIX, claim, discard
from eka_runtime.store.roots import bundle_root

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

DAY = 86_400
KEPT = 30 * DAY
"""Seconds after its last start for which a bundle is kept."""

EVALUATIONS = ("evaluation", "index", "fetched", "request")
"""What `eka/evaluate/` keeps: files that a use touches. Requests are those of earlier versions."""


def put(bundle: Bundle, place: Path) -> bool:
    """Writes a bundle, unless all of it is there; whether it had to.

    Many starts may race to do so; the first wins. Raises EkaError and OSError.
    """
    if is_whole(bundle, place):
        return False
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _clear(bundle, place)
    try:
        write_bundle(bundle, place)
    except UsageError:
        if not is_whole(bundle, place):
            raise
    return True


def tidy_daily(cache: Path, store: Store) -> None:
    """`tidy`, unless that was done in the last day."""
    marker = cache / "tidied"
    with suppress(OSError):
        if _age(marker) > DAY:
            marker.touch(mode=0o600)
            tidy(cache, store)


def tidy(cache: Path, store: Store) -> None:
    """Removes what is of no use, and its roots in this store.

    Other stores learn of their bundles when they are collected. What cannot be removed stays: a
    cache is no reason to fail.
    """
    with suppress(OSError, EkaError):
        _tidy(cache, store)


def _tidy(cache: Path, store: Store) -> None:
    for place in _listed(cache / "bundle"):
        if place.name.startswith("."):
            if _age(place) > DAY:
                remove_tree(place)
        elif _age(place) > KEPT:
            _remove_idle(place, store)
    for record in _listed(cache / "launch"):
        if _age(record) > DAY if record.name.startswith(".") else _leads_nowhere(record):
            with suppress(OSError):
                record.unlink()
    for name in EVALUATIONS:
        for kept in _listed(cache / name):
            if _age(kept) > (DAY if kept.name.startswith(".") else KEPT):
                with suppress(OSError):
                    kept.unlink()


def _remove_idle(bundle: Path, store: Store) -> None:
    lock = claim(os.fsencode(bundle))
    if lock is not None:
        try:
            discard(bundle)
            if store.writable:
                store.roots.remove(bundle_root(bundle, (), running=True).name)
        finally:
            os.close(lock)


def _leads_nowhere(record: Path) -> bool:
    try:
        launch: warm.Record = marshal.loads(warm.read_own(os.fsencode(record)))
        return not os.path.isdir(launch["bundle"])
    except (OSError, ValueError, EOFError, TypeError, KeyError):
        return True


def _clear(bundle: Bundle, place: Path) -> None:
    """Moves away what a loss of power left there; no start has used it since."""
    with suppress(FileNotFoundError):
        lock = claim(os.fsencode(place))
        if lock is None:
            return  # somebody was first to do all this, and runs
        try:
            # Under the lock of this very directory, for another may have its name by now.
            if os.path.samestat(os.fstat(lock), place.stat()) and not is_whole(bundle, place):
                old = place.with_name(f"{OLD_PREFIX}{os.urandom(8).hex()}")
                os.rename(place, old)
                remove_tree(old)
        finally:
            os.close(lock)


def _listed(directory: Path) -> list[Path]:
    """What is in a directory of this user's own, whose name was not given to another one."""
    with suppress(OSError):
        status = directory.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            return sorted(directory.iterdir())
    return []


def _age(place: Path) -> float:
    """Seconds since it was last written or touched; for ever if it is not there."""
    try:
        return time.time() - place.lstat().st_mtime
    except FileNotFoundError:
        return float("inf")
