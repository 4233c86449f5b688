"""The process beside a lazy start: it fetches what the program reads, and then the rest.

It runs outside of the run's namespaces, with the network of whoever started it, and ends with the
launcher: when its stdin does. What is asked for (`eka_runtime/view/asked.py`) is put into the store
as loose blobs. When nothing was asked for a while, paths are completed, each in the usual way:
everything below it verified and durable, then its path info. What is not done by the end is for the
next start, which asks for what is still missing. Out of scope: starting it (`lazy.py`).
"""

from __future__ import annotations

import marshal
import os
import socket
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from eka.output import Output
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.layered import LayeredBlobs
from eka_runtime.castore.services import require_blob
from eka_runtime.errors import EkaError
from eka_runtime.store.copying import Source
from eka_runtime.store.incoming import copy_from
from eka_runtime.store.local_services import LocalServices
from eka_runtime.store.messages import decode_path_info
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.asked import answer_all

QUIET = 1.0
"""Seconds without a question after which the rest is fetched: the program's own reads come first,
and all that is in flight shares one line."""


def main() -> NoReturn:
    """Reads its work from stdin, and says on stdout when it has the store open."""
    status = 1
    try:
        work = marshal.loads(_read(int.from_bytes(_read(8), "little")))
        threading.Thread(target=_end_with_launcher, args=(work["socket"],), daemon=True).start()
        output = Output(verbosity=work["verbosity"], color=work["color"])
        try:
            _attend(work, output)
        except (EkaError, OSError, sqlite3.Error) as error:
            output.warning(f"cannot fetch beside the program: {error}")
    finally:
        # Threads may hang on a network.
        os._exit(status)


def _attend(work: Any, output: Output) -> None:
    from eka.config import load_settings
    from eka.promising import open_far

    root = Path(work["store"])
    infos = [decode_path_info(data) for data in work["infos"]]
    with Store.open(root, create=False) as store:
        settings = load_settings(os.environ, store=root)
        _say_ready()
        far_places = open_far(settings, work["caches"])
        with far_places as far, socket.socket(fileno=work["listening"]) as listening:
            # No file is larger than the NAR that it is in.
            demand = _Demand(store, far, max((info.nar_size for info in infos), default=0))
            threading.Thread(target=_complete, args=(demand, infos, output), daemon=True).start()
            answer_all(listening, demand.bring)


class _Demand:
    """What the program asks for, and since when it has not."""

    def __init__(self, store: Store, far: Source, most: int) -> None:
        self.store = store
        self.far = far
        self._blobs = LayeredBlobs(LocalServices.of(store).blobs, far.blobs, most)
        self._changed = threading.Condition()
        self._open = 0
        self._last = time.monotonic()

    def bring(self, digest: B3Digest) -> None:
        """Raises what the far service or the store raises, StoreCorrupt when nobody has it."""
        self._count(1)
        try:
            require_blob(self._blobs, digest).close()
        finally:
            self._count(-1)

    def wait_for_quiet(self) -> None:
        with self._changed:
            while self._open or self._left() > 0:
                self._changed.wait(None if self._open else self._left())

    def _left(self) -> float:
        return self._last + QUIET - time.monotonic()

    def _count(self, change: int) -> None:
        with self._changed:
            self._open += change
            self._last = time.monotonic()
            self._changed.notify_all()


def _complete(demand: _Demand, infos: list[PathInfo], output: Output) -> None:
    demand.wait_for_quiet()
    store = demand.store
    try:
        missing = [info for info in infos if store.paths.get(info.path) is None]
        copy_from(store, demand.far, missing, each=lambda info: demand.wait_for_quiet())
        output.detail(f"complete: {len(infos)} paths are in the store now")
    except (EkaError, OSError, sqlite3.Error) as error:
        output.warning(f"not all could be fetched beside the program: {error}")


def _say_ready() -> None:
    """And lets go of stdout: the launcher's is not ours."""
    os.write(1, b"+")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 1)


def _end_with_launcher(place: str) -> None:
    """Nothing more is ever written to stdin: it ends when the launcher does, however that is."""
    while os.read(0, 1):
        pass
    try:
        os.unlink(place)
    finally:
        os._exit(0)


def _read(count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(0, min(count - len(data), 1 << 20))
        if not piece:
            os._exit(1)  # the launcher is gone already
        data += piece
    return data
