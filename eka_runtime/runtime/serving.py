"""The launcher's part of a fuse view: the mount in its own namespace, and the server beside it.

The server is a child of the launcher, and the kernel kills it when that ends, however it does. The
kernel also ends the connection when its last descriptor is closed, and then everyone who waits for
a file gets an error. So only the server may have it.
Constraint: as `enter.py`, whose starts it belongs to, this imports nothing that costs time.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from eka_runtime.runtime.planned import Call

# <linux/mount.h>, <linux/prctl.h>
MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
PR_SET_PDEATHSIG = 1
DEVICE = "/dev/fuse"
DEVICE_WORD = "{device}"
# Directories are 040000; ids are those of the launcher's namespace.
OPTIONS = b"rootmode=40000,user_id=0,group_id=0,max_read=1048576,default_permissions,allow_other"


def serve(words: Sequence[str], call: Call) -> int:
    """Mounts at words[0], starts the others as its server, and returns the server's pid.

    One word is DEVICE_WORD, which stands for the number of the connection. Raises OSError.
    """
    place, *command = words
    device = _open_device()
    options = b"fd=%d," % device + OPTIONS
    call("mount", b"eka", place.encode(), b"fuse.eka", MS_RDONLY | MS_NOSUID | MS_NODEV, options)
    launcher = posix.getpid()
    server = posix.fork()
    if server == 0:
        try:
            _become_server(command, device, launcher, call)
        finally:
            posix._exit(125)
    posix.close(device)
    return server


def _open_device() -> int:
    device = posix.open(DEVICE, posix.O_RDWR | posix.O_CLOEXEC)
    while device <= 2:
        device = posix.dup(device)
    return device


def _become_server(command: Sequence[str], device: int, launcher: int, call: Call) -> NoReturn:
    call("prctl", PR_SET_PDEATHSIG, _signal.SIGKILL)
    if posix.getppid() != launcher:
        posix._exit(125)  # it was gone before that line
    posix.setpgid(0, 0)  # the terminal's signals are not for it
    # Whoever has the other ends must notice when the program closes its own.
    null = posix.open("/dev/null", posix.O_RDWR)
    for fd in (0, 1):
        posix.dup2(null, fd)
    for signal in (_signal.SIGPIPE, _signal.SIGXFSZ):  # every Python ignores these
        _signal.signal(signal, _signal.SIG_DFL)
    posix.set_inheritable(device, True)
    words = [str(device) if word == DEVICE_WORD else word for word in command]
    posix.execve(words[0], words, {})
