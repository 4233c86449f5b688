"""A tree on disk as a NAR, without taking it in: for hashes and copies of what may still change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from eka_runtime.errors import CastoreError
from eka_runtime.nix import nar
from eka_runtime.nix.tokens import Write

_CHUNK = 1 << 20


def dump_tree(source: str | os.PathLike[str], write: Write) -> None:
    """As `nix-store --dump`. Raises OSError, and CastoreError for what no tree can hold."""
    write(nar.MAGIC)
    levels: list[tuple[bytes, Iterator[bytes]]] = []
    place = os.fsencode(source)
    if not _node(place, write):
        return
    levels.append((place, _names(place)))
    while levels:
        directory, names = levels[-1]
        for name in names:
            place = directory + b"/" + name
            write(nar.entry_open(name))
            if _node(place, write):
                levels.append((place, _names(place)))
                break
            write(nar.ENTRY_CLOSE)
        else:
            levels.pop()
            write(nar.NODE_CLOSE)
            if levels:
                write(nar.ENTRY_CLOSE)


def _names(directory: bytes) -> Iterator[bytes]:
    return iter(sorted(os.listdir(directory)))


def _node(place: bytes, write: Write) -> bool:
    """Writes a node; of a directory only the beginning, and returns True."""
    status = os.lstat(place)
    if stat.S_ISDIR(status.st_mode):
        write(nar.DIRECTORY_OPEN)
        return True
    if stat.S_ISLNK(status.st_mode):
        write(nar.symlink(os.readlink(place)))
    elif stat.S_ISREG(status.st_mode):
        _file(place, status, write)
    else:
        shown = place.decode("utf-8", "backslashreplace")
        raise CastoreError(f"{shown} is neither a file, a directory nor a symlink")
    return False


def _file(place: bytes, status: os.stat_result, write: Write) -> None:
    size = status.st_size
    write(nar.file_header(bool(status.st_mode & stat.S_IXUSR), size))
    with open(place, "rb", buffering=0) as file:
        left = size
        while left and (data := file.read(min(left, _CHUNK))):
            write(data)
            left -= len(data)
    if left:
        raise CastoreError(f"{place!r} became shorter while it was read")
    write(nar.padding(size) + nar.NODE_CLOSE)
