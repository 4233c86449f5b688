"""The system calls that Python's os module lacks, under their kernel names.

Each wrapper funnels into one place that turns errno into an OSError with advice. Constraint: ctypes
is imported on first use, because it costs as much as a container runtime's start. Out of scope:
`eka_runtime.runtime.enter`, which may import nothing and carries a binding of its own.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
SYS_OPENAT2 = 437
SYNC_FILE_RANGE_WRITE = 2
AT_FDCWD = -100
RESOLVE_NO_SYMLINKS = 0x04

_ADVICE = {
    errno.ENOSYS: "the kernel is too old, or a seccomp filter hides this system call",
    errno.EUSERS: "too many nested user namespaces",
}
_UNSHARE_ADVICE = {**_ADVICE, errno.ENOSPC: "a limit in /proc/sys/user is reached"}


def unshare(flags: int) -> None:
    """Needs a process with a single thread when `flags` holds CLONE_NEWUSER."""
    _check("unshare", _libc().unshare(flags), _UNSHARE_ADVICE)


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    _check(
        "mount", _libc().mount(*map(os.fsencode, (source, target, fstype)), flags, data.encode())
    )


def unmount(target: str) -> None:
    """Takes it out of the tree of names; it is gone when nobody uses it any more (MNT_DETACH)."""
    _check("umount2", _libc().umount2(os.fsencode(target), MNT_DETACH))


def syncfs(fd: int) -> None:
    """Makes the whole file system that `fd` lies on durable."""
    _check("syncfs", _libc().syncfs(fd))


def begin_writing(fd: int) -> None:
    """Makes the kernel begin to write what is dirty of a file, and waits for none of it.

    Advice: nothing happens where that is not known.
    """
    _libc().sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE)


def punch_hole(fd: int, start: int, size: int) -> None:
    """Gives the blocks of a range back; it reads as zeros. The size of the file stays."""
    flags = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    _check("fallocate", _libc().fallocate(fd, flags, start, size))


def opens_without_links(path: str) -> bool:
    """Whether openat2(2) with RESOLVE_NO_SYMLINKS works here, and on `path`."""
    flags = os.O_PATH | os.O_CLOEXEC
    how = b"".join(word.to_bytes(8, sys.byteorder) for word in (flags, 0, RESOLVE_NO_SYMLINKS))
    fd = _libc().syscall(SYS_OPENAT2, AT_FDCWD, os.fsencode(path), how, len(how))
    if fd < 0:
        return False
    os.close(fd)
    return True


def die_with_parent() -> None:
    """Asks for SIGKILL when the parent process is gone: prctl(2), PR_SET_PDEATHSIG."""
    _check("prctl", _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL))


@functools.cache
def _libc() -> ctypes.CDLL:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    text = ctypes.c_char_p
    libc.mount.argtypes = (text, text, text, ctypes.c_ulong, text)
    libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return libc


def _check(name: str, result: int, advice: Mapping[int, str] = _ADVICE) -> None:
    if result >= 0:
        return
    import ctypes

    code = ctypes.get_errno()
    message = f"{name}: {os.strerror(code)}"
    if code in advice:
        message += f" ({advice[code]})"
    raise OSError(code, message)
