"""Lets a test start crun by hand on a hybrid-cgroup host, which crun itself refuses.

The cgroup2 tree is covered in a mount namespace of that one command, so nothing else notices.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.requirements import lacking, require
from tests.users import User

UNIFIED = Path("/sys/fs/cgroup/unified")
_COVER = f'mount -t tmpfs none {UNIFIED} && exec "$@"'


def by_hand(user: User) -> list[str]:
    """Words to put before a command, which root starts, so that `user` runs it."""
    become = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    words = [] if user.uid == os.geteuid() else [require("setpriv"), *become[1:]]
    controllers = UNIFIED / "cgroup.controllers"
    left = controllers.read_text().split() if controllers.exists() else []
    if not left:
        return words
    if os.geteuid() != 0:
        lacking(f"crun refuses this hybrid cgroup layout: {' '.join(left)} is on v2")
    return [require("unshare"), "--mount", "sh", "-c", _COVER, "sh", *words]
