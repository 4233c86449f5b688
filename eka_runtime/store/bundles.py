"""Cached bundles, as those see them who remove some: whether anything runs from one, and its end.

Whatever runs from a cached bundle holds flock(2) on its directory. Who removes one holds it
exclusively, and renames the directory before anything else, so that a start finds all or nothing.
Out of scope: what is in a bundle (`eka_runtime/oci`), where the cache is.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from eka_runtime.castore.removal import remove_tree

OLD_PREFIX = ".old-"


def claim(place: bytes) -> int | None:
    """The exclusive lock on the directory of a cached bundle; None while something runs from it.

    Raises OSError when it is not there.
    """
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def discard(bundle: Path) -> None:
    """Removes one that was claimed; leaves alone what is no bundle of ours. Raises OSError."""
    if not all(os.path.isfile(bundle / name) for name in ("config.json", "eka.json")):
        return
    # Under another name first: nobody may take for a bundle what is half gone.
    old = bundle.with_name(f"{OLD_PREFIX}{os.urandom(8).hex()}")
    with suppress(FileNotFoundError, NotADirectoryError):
        os.rename(bundle, old)
    remove_tree(old)
