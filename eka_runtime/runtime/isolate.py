"""The namespaces and mounts that the launcher makes for itself in the outer mode.

CONSTRAINT: as for `enter.py`, of which this is a part: nothing is imported that `python -ISE` has
not loaded already. What to make is data of the plan. Nothing is undone: all of it ends with the
processes in it.
"""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eka_runtime.runtime.planned import Call, Plan

# <linux/sched.h>, <linux/mount.h>, <linux/openat2.h>, <asm/unistd.h>
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC = 2, 4, 4096, 16384
MOUNT_ATTR_RDONLY = 1
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
SYS_openat2, SYS_mount_setattr = 437, 442
O_PATH, RESOLVE_NO_SYMLINKS = 0x200000, 4


class Refused(Exception):
    """The host denied a namespace; nothing was changed, so another plan may be tried."""


def isolate(plan: Plan, call: Call) -> int:
    """Namespaces in which the caller is root, and the mounts that the runtime is to find there.

    Returns the pid of the server of a fuse view. That is no part of the pid namespace, where the
    program could end it.
    """
    uid, gid = posix.geteuid(), posix.getegid()
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID
    try:
        network = CLONE_NEWNET if plan["no_network"] else 0
        call("unshare", (flags & ~CLONE_NEWPID if plan["serve"] else flags) | network)
    except OSError as error:
        raise Refused(f"unshare: {error.strerror}") from None
    _write("/proc/self/setgroups", b"deny")
    _write("/proc/self/uid_map", b"0 %d 1" % uid)
    _write("/proc/self/gid_map", b"0 %d 1" % gid)
    make_directories(plan["state"])
    for path in (plan["state"], *plan["cover"]):
        call("mount", b"eka", path.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0700")
    for source, target in plan["pinned"]:
        _pin(call, source, target)
    for path in plan["readonly"]:
        call("mount", path.encode(), path.encode(), b"", MS_BIND | MS_REC, None)
        _make_readonly(call, path, AT_RECURSIVE)
    if plan["protect"]:
        _protect(call, plan["runtime"][0])
    if not plan["serve"]:
        return 0
    from eka_runtime.runtime.serving import serve

    server = serve(plan["serve"], call)
    call("unshare", CLONE_NEWPID)
    return server


def _pin(call: Call, source: str, target: str) -> None:
    """Binds what lies at `source` to where nobody else can put something in its place.

    No link is followed on the way, as the path had none when it was granted: OSError if by now it
    has. The runtime would follow one, to whatever the caller may see.
    """
    flags = O_PATH | posix.O_CLOEXEC
    how = b"".join(word.to_bytes(8, sys.byteorder) for word in (flags, 0, RESOLVE_NO_SYMLINKS))
    try:
        fd = call("syscall", SYS_openat2, AT_FDCWD, source.encode(), how, len(how))
    except OSError as error:
        error.filename = source
        raise
    if posix.fstat(fd).st_mode & 0o170000 == 0o040000:
        posix.mkdir(target, 0o700)
    else:
        posix.close(posix.open(target, posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC, 0o600))
    call("mount", b"/proc/self/fd/%d" % fd, target.encode(), b"", MS_BIND | MS_REC, None)
    posix.close(fd)


def _protect(call: Call, runtime: str) -> None:
    """Makes the runtime's own file read-only, as a container must not write to it (CVE-2019-5736).

    crun does so itself and starts anew, for 2 ms, unless it finds it done: so failing is no loss.
    """
    try:
        call("mount", runtime.encode(), runtime.encode(), b"", MS_BIND, None)
        _make_readonly(call, runtime, 0)
    except OSError:
        return


def _make_readonly(call: Call, path: str, flags: int) -> None:
    attributes = (MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr: set, clear, propagation, userns
    packed = b"".join(value.to_bytes(8, sys.byteorder) for value in attributes)
    call("syscall", SYS_mount_setattr, AT_FDCWD, path.encode(), flags, packed, len(packed))


def make_directories(path: str) -> None:
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_directories(path.rpartition("/")[0])
        posix.mkdir(path, 0o700)


def _write(path: str, data: bytes) -> None:
    fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.write(fd, data)
    except OSError as error:
        error.filename = path
        raise
    posix.close(fd)
