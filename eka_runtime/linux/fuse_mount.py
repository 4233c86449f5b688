"""Mounting a FUSE file system: by mount(2) for whoever may, and with fusermount3 for all others.

In a user namespace of his own anyone may mount, but only processes in there see it. fusermount3 is
setuid and mounts for everyone to see; it hands the connection over as libfuse expects it
(fusermount3(1): a socket named by _FUSE_COMMFD, and SCM_RIGHTS). With `auto_unmount` it stays until
that socket is closed, however its owner ends, and unmounts then.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from typing import NamedTuple

from eka_runtime.errors import HostError
from eka_runtime.linux.fuse import MAX_READ
from eka_runtime.linux.mounts import MS_NODEV, MS_NOSUID, MS_RDONLY
from eka_runtime.linux.syscalls import mount, unmount

DEVICE = "/dev/fuse"
_HINT = "see what this host allows with `eka doctor`"


class Helped(NamedTuple):
    """A mount made by fusermount3; it lasts as long as `lifeline` is open."""

    device: int
    lifeline: socket.socket
    process: subprocess.Popen[bytes]

    def close(self) -> None:
        """Returns when nothing is mounted any more."""
        os.close(self.device)
        self.lifeline.close()
        self.process.wait()


def find_helper() -> str | None:
    """The path of fusermount3."""
    return shutil.which("fusermount3", path=f"{os.environ.get('PATH', os.defpath)}:/usr/bin:/bin")


def open_device() -> int:
    """Raises HostError where the kernel has no FUSE, or does not let this user have it."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot use {DEVICE}: {error.strerror}", hint=_HINT) from error


def mount_device(device: int, target: str) -> None:
    """For those with the right to mount in their namespace; raises OSError.

    All users see it, as far as they see the namespace: everything in it may be read by everyone.
    """
    options = {
        "fd": device,
        "rootmode": "40000",
        "user_id": os.geteuid(),
        "group_id": os.getegid(),
        "max_read": MAX_READ,
    }
    words = [f"{key}={value}" for key, value in options.items()]
    data = ",".join([*words, "default_permissions", "allow_other"])
    mount("eka", target, "fuse.eka", MS_RDONLY | MS_NOSUID | MS_NODEV, data)


def mount_with_helper(helper: str, target: str) -> Helped:
    """`helper` is the path of fusermount3; HostError with what it said."""
    ours, theirs = socket.socketpair()
    options = f"ro,nosuid,nodev,fsname=eka,subtype=eka,default_permissions,max_read={MAX_READ}"
    if os.geteuid() == 0:
        options += ",allow_other"
    with theirs:
        process = subprocess.Popen(
            [helper, "-o", f"{options},auto_unmount", "--", target],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Ctrl-C is for the server, which then tells it.
            start_new_session=True,
        )
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        ours.close()
        said = process.communicate()[1].decode(errors="replace").strip()
        raise HostError(f"cannot mount on `{target}`: {said or 'fusermount3 failed'}", hint=_HINT)
    if process.stderr:
        process.stderr.close()
    return Helped(descriptors[0], ours, process)


def unmount_if_there(target: str) -> None:
    """At once for new users of names; whoever has something open in it keeps that."""
    try:
        unmount(target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
