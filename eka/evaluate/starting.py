"""How the bundle of an evaluation is started: found again where it was started before.

Compiling a bundle takes longer than most evaluations, and atoms are edited and evaluated again. So
the first start leaves a record, as those of `eka-run` do (`eka.warm` has the rules):

    $XDG_CACHE_HOME/eka/launch/<key>    beside those of runs; marshal of a dict, mode 0600
    key = BLAKE2b of: format, Python, user, namespaces, runtime and mode as eka.toml has them,
          store, all of the Wanted, EKA_* XDG_* HOME PATH

Namespaces, because a home is often shared with containers, in which less of a sandbox is possible.

What differs from one evaluation to the next (the request, the session's store and socket) stands
for itself in the bundle and is filled in at the start, so that whatever is asked of an atom, and
however its files change, the record is the same. Constraint: imports nothing that compiles bundles
(`compiling.py` does), unless there is no record.
"""

from __future__ import annotations

import json
import marshal
import os
import sys
from _blake2 import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eka import warm
from eka.config import Settings, cache_dir
from eka_runtime.view.plan import ViewMount

if TYPE_CHECKING:
    from eka.evaluate.evaluator import Command
    from eka_runtime.nix.path import StorePath
    from eka_runtime.runtime.planned import Plan
    from eka_runtime.store.store import Store

FORMAT = b"eka evaluation record 1"

STORE, SOCKET, REQUEST = "/eka-session/store", "/eka-session/socket", "/eka-session/request"
"""What stands in a bundle for what a session has of its own."""


class Shown(NamedTuple):
    """A file or directory of the host, links resolved, and where it is seen.

    As `Grant`, whose module takes longer to import than all of this.
    """

    inner: str
    source: str
    origin: str
    directory: bool


class Wanted(NamedTuple):
    """All that decides the bundle, but the host and eka. `closure` is sorted."""

    command: Command
    mounts: tuple[ViewMount, ...]
    closure: tuple[StorePath, ...]
    shown: tuple[Shown, ...]
    covered: tuple[str, ...]
    annotations: tuple[tuple[str, str], ...]


class Start(NamedTuple):
    """`kept` is the record that it comes from, if any."""

    plan: Plan
    words: list[bytes]
    env: list[bytes]
    kept: Path | None = None

    def filled(self, store: str, socket: str, request: str) -> Plan:
        """The plan for one session."""
        places = ((STORE, store), (SOCKET, socket), (REQUEST, request))

        def fill(piece: bytes | str) -> bytes | str:
            if isinstance(piece, str):
                return piece
            for name, path in places:
                piece = piece.replace(json.dumps(name).encode(), json.dumps(path).encode())
            return piece

        return {**self.plan, "template": tuple(map(fill, self.plan["template"]))}


def find_start(wanted: Wanted, store: Store, settings: Settings) -> Start:
    """Raises what probing the host and compiling raise."""
    record = record_file(wanted, settings)
    return _recorded(record) or fresh_start(wanted, store, settings)


def fresh_start(wanted: Wanted, store: Store, settings: Settings) -> Start:
    """Whatever is recorded. Leaves a record."""
    from eka.evaluate.compiling import compiled

    return compiled(wanted, store, settings, record_file(wanted, settings))


def record_file(wanted: Wanted, settings: Settings) -> Path:
    shaping = [name + b"=" + value for name, value in os.environb.items() if warm.shapes(name)]
    spaces = tuple(os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "pid"))
    ids = (sys.hexversion, os.geteuid(), os.getegid(), spaces, settings.runtime, settings.mode)
    text = repr((ids, sorted(shaping), os.fspath(settings.store), wanted))
    name = blake2b(FORMAT + text.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
    return cache_dir(os.environ) / "launch" / name


def _recorded(file: Path) -> Start | None:
    """Whoever takes it holds the bundle until this process ends."""
    try:
        record: warm.Record = marshal.loads(warm.read_own(os.fsencode(file)))
        warm.hold(record["bundle"])
        if record["format"] != FORMAT or not warm.unchanged(record):
            return None
        return Start(record["plan"], record["args"], record["env"], file)
    except (OSError, ValueError, EOFError, TypeError, KeyError):
        return None
