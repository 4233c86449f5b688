"""Enters a user namespace in which the calling user is root, and reads the ranges users may map.

Out of scope: starting bundles (`eka_runtime.runtime.enter` does that with its own few lines).
"""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path
from typing import NamedTuple

from eka_runtime.linux.syscalls import CLONE_NEWUSER, unshare


class IdRange(NamedTuple):
    """A line of /etc/subuid or /etc/subgid: `size` ids from `first` on."""

    first: int
    size: int


def enter_user_namespace(flags: int = 0, *, as_root: bool = True) -> None:
    """CLONE_NEWUSER and `flags`, then the maps of a single id, which becomes 0 or stays the same.

    An OSError from the maps, after a successful unshare, is the mark of AppArmor's restriction.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | flags)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{0 if as_root else uid} {uid} 1")
    _write("/proc/self/gid_map", f"{0 if as_root else gid} {gid} 1")


def subordinate_ids(file: Path, uid: int) -> tuple[IdRange, ...]:
    """The ranges that `file` (subuid(5)) gives to `uid`, by number or by name."""
    owners = {str(uid)}
    with contextlib.suppress(KeyError):
        owners.add(pwd.getpwuid(uid).pw_name)
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    fields = (line.split(":") for line in lines)
    return tuple(
        IdRange(int(first), int(size))
        for owner, first, size in (field for field in fields if len(field) == 3)
        if owner in owners and first.isdecimal() and size.isdecimal()
    )


def _write(file: str, text: str) -> None:
    # One write(2), unbuffered: the kernel takes a map in a single piece or not at all.
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
