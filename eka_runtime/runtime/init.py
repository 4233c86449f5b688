"""Finds a static init for the modes in which the program would otherwise be process 1.

Process 1 of a pid namespace ignores every signal it has no handler for: no Ctrl-C, no abort(). tini
is preferred because it alone can tie its life to the launcher's (`-p`).
"""

from __future__ import annotations

import os
import shutil
from typing import NamedTuple

from eka_runtime.errors import FormatError
from eka_runtime.linux.elf import is_static_elf

_TINI = ("-p", "SIGKILL", "--")
_KNOWN = {
    "tini-static": _TINI,
    "docker-init": _TINI,
    "tini": _TINI,
    "catatonit": ("--",),
}
_PLACES = ":".join(
    (
        *("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"),
        *("/usr/libexec/docker", "/usr/libexec/podman", "/usr/lib/podman"),
    )
)


class Init(NamedTuple):
    """Host path of a static executable, and its options up to the program's own words."""

    path: str
    options: tuple[str, ...]


def find_init() -> Init | None:
    for name, options in _KNOWN.items():
        found = shutil.which(name, path=_PLACES)
        if found and _is_static(found):
            return Init(os.path.realpath(found), options)
    return None


def _is_static(path: str) -> bool:
    try:
        return is_static_elf(path)
    except (OSError, FormatError):
        return False
