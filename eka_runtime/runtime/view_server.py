"""Plans the server of a fuse view: where a bundle wants one, and the command that starts it.

The view itself is `eka_runtime.view.fuse`. Constraint: this is imported by every cold start, so it
knows that view by its names only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ANNOTATION, _STRATEGY = "dev.eka.view", "fuse"
_STORE = "/nix/store"
_BOOT = """\
import sys
sys.path[:] = sys.argv[5:]
from eka_runtime.view.fuse_server import main
main(int(sys.argv[1]), *sys.argv[2:5])
"""


def served_mount(config: Mapping[str, Any]) -> str | None:
    """Where a launcher has to mount for this config.json; None if its view is another one."""
    if config.get("annotations", {}).get(_ANNOTATION) != _STRATEGY:
        return None
    sources: list[str] = [
        mount["source"] for mount in config["mounts"] if mount["destination"] == _STORE
    ]
    return sources[0] if sources else None


def server_words(mount: str, socket: str = "") -> tuple[str, ...]:
    """The command that serves the view mounted there; `{device}` stands for the connection.

    Blobs that the store lacks are asked for at `socket`, if one is given.

    As little of Python as possible: 20 ms, beside the runtime's own start.
    """
    place = Path(mount).parent
    store = place.parents[2]
    paths = [path for path in sys.path if path]
    own = ("{device}", os.fspath(store), place.name, socket)
    return (sys.executable, "-ISE", "-c", _BOOT, *own, *paths)
