"""The system calls that Python's os module lacks, under their kernel names.

Each wrapper funnels into one place that turns errno into an OSError with advice. Constraint: ctypes
is imported on first use, because it costs as much as a container runtime's start. Out of scope:
`eka_runtime.runtime.enter`, which may import nothing and carries a binding of its own.
"""

from __future__ import annotations

import errno
import functools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

_ADVICE = {
    errno.ENOSYS: "the kernel is too old, or a seccomp filter hides this system call",
    errno.ENOSPC: "a limit in /proc/sys/user is reached",
    errno.EUSERS: "too many nested user namespaces",
}


def unshare(flags: int) -> None:
    """Needs a process with a single thread when `flags` holds CLONE_NEWUSER."""
    _check("unshare", _libc().unshare(flags))


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    _check(
        "mount", _libc().mount(*map(os.fsencode, (source, target, fstype)), flags, data.encode())
    )


def syncfs(fd: int) -> None:
    """Makes the whole file system that `fd` lies on durable."""
    _check("syncfs", _libc().syncfs(fd))


@functools.cache
def _libc() -> ctypes.CDLL:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    text = ctypes.c_char_p
    libc.mount.argtypes = (text, text, text, ctypes.c_ulong, text)
    return libc


def _check(name: str, result: int) -> None:
    if result >= 0:
        return
    import ctypes

    code = ctypes.get_errno()
    message = f"{name}: {os.strerror(code)}"
    if advice := _ADVICE.get(code):
        message += f" ({advice})"
    raise OSError(code, message)
