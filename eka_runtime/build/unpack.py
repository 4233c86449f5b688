"""A NAR as a tree on disk, in a place where nothing was before."""

from __future__ import annotations

import os
from pathlib import Path

from eka_runtime.nix.nar import NarReader, Read, parse_nar

_CHUNK = 1 << 18


class _Writer:
    """A NarSink; names are checked by the parser."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._open: list[bytes] = []

    def directory(self, name: bytes) -> None:
        place = self._place(name)
        os.mkdir(place)
        self._open.append(place)

    def end_directory(self) -> None:
        self._open.pop()

    def symlink(self, name: bytes, target: bytes) -> None:
        os.symlink(target, self._place(name))

    def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
        with open(self._place(name), "xb") as file:
            while data := read(_CHUNK):
                file.write(data)
            os.fchmod(file.fileno(), 0o755 if executable else 0o644)

    def _place(self, name: bytes) -> bytes:
        return os.path.join(self._open[-1], name) if self._open else self._root


def unpack_nar(read: Read, place: Path) -> None:
    """Raises NarError and OSError, with part of the tree there."""
    parse_nar(NarReader(read), _Writer(os.fsencode(place)))
