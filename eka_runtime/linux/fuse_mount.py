"""Mounting a FUSE file system: by mount(2) for whoever may, and with fusermount3 for all others.

In a user namespace of his own anyone may mount, but only processes in there see it. fusermount3 is
setuid and mounts for everyone to see; it hands the connection over as libfuse expects it
(fusermount3(1): a socket named by _FUSE_COMMFD, and SCM_RIGHTS). A mount that others see outlives a
server that is killed, as a place where every access is an error; so a small process waits for that
and unmounts. (fusermount3's own `auto_unmount` does it only for mounts with `allow_other`.)
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eka_runtime.errors import HostError
from eka_runtime.linux.fuse import MAX_READ
from eka_runtime.linux.mounts import MS_NODEV, MS_NOSUID, MS_RDONLY
from eka_runtime.linux.syscalls import mount, unmount

DEVICE = "/dev/fuse"
_HINT = "see what this host allows with `eka doctor`"


def find_helper() -> str | None:
    """The path of fusermount3."""
    return shutil.which("fusermount3")


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


@contextmanager
def mounted(target: str) -> Iterator[int]:
    """A mount that everybody sees; yields the connection. At the end, however it comes, it is gone.

    Raises HostError when this user cannot have it. Forks: to be entered before threads are started.
    """
    helper = None if os.geteuid() == 0 else find_helper()
    if os.geteuid() != 0 and helper is None:
        raise HostError(
            "a mount that everybody sees needs fusermount3, which is not installed",
            hint="install it (on Debian and Ubuntu `apt-get install fuse3`), or start what is to"
            f" see the mount: `eka store mount {target} -- COMMAND`",
        )
    lifeline = _guard(helper, target)
    try:
        device = _mount_with_helper(helper, target) if helper else _mount_as_root(target)
        try:
            yield device
        finally:
            try:
                _unmount(helper, target)
            finally:
                os.close(device)
    finally:
        # Told that there is nothing to do; whoever dies before this line tells nothing.
        os.write(lifeline, b"x")
        os.close(lifeline)


def _mount_as_root(target: str) -> int:
    device = open_device()
    try:
        mount_device(device, target)
    except OSError as error:
        os.close(device)
        raise HostError(f"cannot mount on `{target}`: {error}", hint=_HINT) from error
    return device


def _mount_with_helper(helper: str, target: str) -> int:
    ours, theirs = socket.socketpair()
    options = f"ro,nosuid,nodev,fsname=eka,subtype=eka,default_permissions,max_read={MAX_READ}"
    with ours, theirs:
        done = subprocess.run(
            [helper, "-o", options, "--", target],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise HostError(f"cannot mount on `{target}`: {said}", hint=_HINT)
        _, [device], _, _ = socket.recv_fds(ours, 1, 1)
    return device


def _unmount(helper: str | None, target: str) -> None:
    """At once for new users of names; whoever has something open in it keeps that."""
    if helper:
        words = [helper, "-u", "-z", "--", target]
        done = subprocess.run(words, capture_output=True, check=False)
        # Where it is not there any more, somebody else has unmounted it.
        if done.returncode != 0 and _is_there(target):
            raise HostError(
                f"cannot unmount `{target}`: {done.stderr.decode(errors='replace').strip()}",
                hint=f"as root: `umount -l {target}`",
            )
        return
    try:
        unmount(target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def _is_there(target: str) -> bool:
    """Without asking its server; proc_pid_mounts(5)."""
    mounts = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    places = {place for _, place, kind, *_ in map(str.split, mounts) if kind == "fuse.eka"}
    above, name = os.path.split(os.path.abspath(target))
    own = os.path.join(os.path.realpath(above), name)
    return re.sub(r"[ \t\n\\]", _escaped, own) in places


def _escaped(match: re.Match[str]) -> str:
    return f"\\{ord(match[0]):03o}"


def _guard(helper: str | None, target: str) -> int:
    """Forks the process that unmounts; it does so when the returned pipe ends without a word."""
    waiting, lifeline = os.pipe()
    if os.fork() != 0:
        os.close(waiting)
        return lifeline
    try:
        os.setsid()  # the terminal's signals are not for it
        os.close(lifeline)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        if not os.read(waiting, 1) and _is_dead(target):
            _unmount(helper, target)
    finally:
        os._exit(0)


def _is_dead(target: str) -> bool:
    """Whether there is a FUSE file system without a server."""
    try:
        # Always asks the server; one that is about to go is waited for.
        os.statvfs(target)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False
