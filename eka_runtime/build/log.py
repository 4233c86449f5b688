"""Logs of builds: what the builder wrote, compressed, one file for each derivation.

    STORE/log/<2 digits>/<the rest of the derivation's name>.zst

The last build of a derivation counts. A log appears when its build has ended, however it ended.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import zstandard

from eka_runtime.closing import Closing
from eka_runtime.errors import PathNotFound, StoreCorrupt
from eka_runtime.nix.derivation import EXTENSION
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.tokens import Write
from eka_runtime.store.layout import access_errors
from eka_runtime.store.store import Store

TAIL = 10
MESSAGE = b"@nix "
"""Begins what builders say for programs, such as the phase they are in."""
_LEVEL = 3
_READ = 1 << 16
# A line without end must not fill the memory.
_LINE_MAX = 1 << 16

Each = Callable[[bytes], object]


class BuildLog(Closing):
    """`each` gets every line without its end. A context manager: at its end the log is there.

    Until then it is at `fresh`, on the store's file system, or among the store's files in the
    making: somewhere that is swept after a crash.
    """

    def __init__(self, store: Store, drv: StorePath, each: Each, fresh: Path | None = None) -> None:
        self.size = 0
        self.tail: deque[bytes] = deque(maxlen=TAIL)
        self._each = each
        self._rest = b""
        self._layout = store.layout
        self._place = log_place(store, drv)
        self._fresh = fresh or store.layout.tmp / os.urandom(16).hex()
        with access_errors(self._layout):
            self._place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._file = self._fresh.open("xb")
            self._writer = zstandard.ZstdCompressor(level=_LEVEL).stream_writer(self._file)

    def write(self, data: bytes) -> None:
        self.size += len(data)
        with access_errors(self._layout):
            self._writer.write(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_MAX:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._line(line)

    def close(self) -> None:
        try:
            if self._rest:
                self._line(self._rest)
            with access_errors(self._layout):
                self._writer.flush(zstandard.FLUSH_FRAME)
                self._file.flush()
                os.rename(self._fresh, self._place)
        finally:
            self._file.close()
            with suppress(OSError):
                self._fresh.unlink(missing_ok=True)

    def _line(self, line: bytes) -> None:
        if not line.startswith(MESSAGE):
            self.tail.append(line)
        self._each(line)


def log_place(store: Store, drv: StorePath) -> Path:
    return store.layout.root / "log" / drv.base[:2] / f"{drv.base[2:]}.zst"


def write_log(store: Store, path: StorePath, write: Write) -> None:
    """The log of a derivation, or of the one that a path was built by.

    Raises PathNotFound when there is none.
    """
    drv = path if path.name.endswith(EXTENSION) else store.info(path).deriver
    if drv is None:
        raise PathNotFound(f"`{path}` was not built, so there is no log of it")
    try:
        file = log_place(store, drv).open("rb")
    except FileNotFoundError:
        raise PathNotFound(
            f"there is no log of `{drv}` here",
            hint="logs are kept of what was built with this store, not of what was fetched",
        ) from None
    try:
        with file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            while data := reader.read(_READ):
                write(data)
    except zstandard.ZstdError as error:
        raise StoreCorrupt(f"the log of `{drv}` is damaged: {error}") from error
