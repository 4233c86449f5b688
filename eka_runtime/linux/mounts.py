"""Mounts by which a host is tried out, with the kernel's names for their flags.

Out of scope: the mounts of bundles, which the runtime makes, and views, which only plan.
"""

from __future__ import annotations

import os
from pathlib import Path

from eka_runtime.linux.syscalls import mount

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REC = 16384
MS_SLAVE = 1 << 19


def leave_shared_mounts() -> None:
    """What is mounted from now on in this namespace is not seen in others (MS_SLAVE)."""
    mount("", "/", "", MS_REC | MS_SLAVE)


def mount_tmpfs(target: Path) -> None:
    mount("eka", os.fspath(target), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700")


def mount_proc(target: Path) -> None:
    """Needs a pid namespace of one's own, and a /proc that nothing hides a part of."""
    mount("proc", os.fspath(target), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def mount_data_overlay(target: Path, meta: Path, blobs: Path) -> None:
    """An overlay whose files are `meta`'s and whose contents lie in `blobs` (kernel 6.16)."""
    mount("overlay", os.fspath(target), "overlay", MS_RDONLY, f"userxattr,lowerdir={meta}::{blobs}")
