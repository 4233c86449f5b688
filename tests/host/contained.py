"""Containers for tests: podman's, whose files are the host's own under a throw-away overlay.

Made to work in virtual machines, too: podman's default limits are more than root may have in some,
and crun starts nothing where a hybrid tree of control groups still has controllers.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from eka_runtime.runtime.host import hybrid_cgroups
from tests.installed import REPOSITORY
from tests.requirements import lacking, require

_TIMEOUT = 120
_MOST = 4096

_COVERED = """\
import os, sys
from pathlib import Path
from eka_runtime.linux.mounts import leave_shared_mounts, mount_tmpfs
from eka_runtime.linux.syscalls import CLONE_NEWNS, unshare
trees, words = sys.argv[1].split(), sys.argv[2:]
if trees:
    unshare(CLONE_NEWNS)
    leave_shared_mounts()
    for tree in trees:
        mount_tmpfs(Path(tree))
os.execvp(words[0], words)
"""


def container(*options: str) -> list[str]:
    """The words before those of a Python in a container made with these options of `podman run`."""
    if os.geteuid() != 0:
        lacking("only root can give a container the host's root directory")
    podman = [require("podman"), "run", "--rm", "--network=none", "--cgroups=disabled"]
    podman += [_limit("nofile", resource.RLIMIT_NOFILE), _limit("nproc", resource.RLIMIT_NPROC)]
    podman += [*options, f"--workdir={REPOSITORY}", "--rootfs", "/:O", sys.executable]
    command = [sys.executable, "-c", _COVERED, " ".join(hybrid_cgroups()), *podman]
    done = run([*command, "-c", "import eka_runtime"])
    if done.returncode != 0:
        lacking(f"podman does not work here: {done.stderr.decode(errors='replace')}")
    return command


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[bytes]:
    null = subprocess.DEVNULL
    return subprocess.run(command, capture_output=True, stdin=null, timeout=_TIMEOUT, check=False)


def _limit(name: str, number: int) -> str:
    soft, hard = (min(limit % (1 << 64), _MOST) for limit in resource.getrlimit(number))
    return f"--ulimit={name}={soft}:{hard}"
