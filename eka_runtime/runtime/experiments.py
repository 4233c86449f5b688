"""Small experiments on the kernel, run by facts.py in a process of their own, which they spoil.

Prints one JSON object: name of the experiment -> "" or the error. All is done on a tmpfs in a mount
namespace that ends with the process, so nothing is left behind.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from eka_runtime.linux.mounts import mount_data_overlay, mount_proc, mount_tmpfs
from eka_runtime.linux.syscalls import CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, unshare
from eka_runtime.linux.userns import enter_user_namespace

_DATA = b"content"


def main(place: Path) -> None:
    """`place` is an empty directory. Without a namespace of one's own nothing else is tried: to
    root, it would happen to the host.
    """
    results = {user_namespace.__name__: _outcome(user_namespace, place)}
    for experiment in (tmpfs, data_overlay, hostname, new_proc):
        denied = results[user_namespace.__name__]
        results[experiment.__name__] = denied or _outcome(experiment, place)
    json.dump(results, sys.stdout)


def _outcome(experiment: Callable[[Path], None], place: Path) -> str:
    try:
        experiment(place)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return where + str(error.strerror)
    return ""


def user_namespace(place: Path) -> None:
    enter_user_namespace(CLONE_NEWNS)


def tmpfs(place: Path) -> None:
    mount_tmpfs(place)


def data_overlay(place: Path) -> None:
    meta, blobs, shown = (place / name for name in ("meta", "blobs", "shown"))
    for directory in (meta, blobs, shown):
        directory.mkdir()
    (blobs / "blob").write_bytes(_DATA)
    (meta / "file").touch()
    os.truncate(meta / "file", len(_DATA))
    os.setxattr(meta / "file", "user.overlay.metacopy", b"")
    os.setxattr(meta / "file", "user.overlay.redirect", b"/blob")
    mount_data_overlay(shown, meta, blobs)
    if (shown / "file").read_bytes() != _DATA:
        raise OSError(0, "the overlay shows other contents than its data layer has")


def hostname(place: Path) -> None:
    unshare(CLONE_NEWUTS)
    socket.sethostname("eka")


def new_proc(place: Path) -> None:
    target = place / "proc"
    target.mkdir()
    unshare(CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        try:
            mount_proc(target)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, f"mount: {os.strerror(code)}")
