"""Replaces a file of the user's: readers see the old content or the new, never a part."""

from __future__ import annotations

import os
from contextlib import suppress


def replace_file(file: str, data: bytes) -> None:
    """Through links, with the owner and permissions that it had. Raises OSError."""
    place = os.path.realpath(file)
    fresh = f"{place}.new-{os.getpid()}"
    try:
        _write(fresh, data)
        _take_over(place, fresh)
        os.rename(fresh, place)
    except OSError:
        with suppress(OSError):
            os.unlink(fresh)
        raise


def _write(fresh: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(fresh, flags, 0o666), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _take_over(place: str, fresh: str) -> None:
    try:
        old = os.stat(place)
    except FileNotFoundError:
        return
    own = os.stat(fresh)
    if (old.st_uid, old.st_gid) != (own.st_uid, own.st_gid):
        # Only root may give a file away; a file of a group one is in stays with that group.
        with suppress(PermissionError):
            os.chown(fresh, old.st_uid, old.st_gid)
    os.chmod(fresh, old.st_mode & 0o777)
