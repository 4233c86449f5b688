"""What a directory holds, as one digest, without reading again what has not changed.

    $XDG_CACHE_HOME/eka/index/<key>     marshal: of each file its stamp and its digest

A stamp is device, inode, size, mode and both times. A file is believed by its stamp only if that is
older than the moment at which it was looked at by more than the clock of the file system can
resolve: one that is changed again in the same tick is read again. The directory `.git` at the top
is no part of it, as evaluations do not see it. Safe beside other processes: an index is replaced as
a whole, and each entry in it is true by itself.
"""

from __future__ import annotations

import marshal
import os
import stat
import time
from _blake2 import blake2b
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import blake3

from eka.config import cache_dir
from eka.kept import publish, touch

TICK_NS = 20_000_000
"""File times move in steps of a kernel tick, at most 10 ms."""
_FORMAT = "eka index 1"

Stamp = tuple[int, ...]


class Scan(NamedTuple):
    """`stamps` has every directory and file by its absolute path."""

    digest: bytes
    stamps: dict[bytes, Stamp]


def scan(directory: Path) -> Scan:
    """Raises OSError for a directory that cannot be read; a file that cannot is told as such."""
    root = os.fsencode(directory)
    place = _index_file(root)
    known = _read(place)
    now = time.time_ns() - TICK_NS
    hasher = blake3.blake3()
    stamps: dict[bytes, Stamp] = {}
    index: dict[bytes, tuple[Stamp, bytes]] = {}
    for path, kind, stamp in _walk(root):
        stamps[path] = stamp
        name = path[len(root) :]
        hasher.update(b"%s\0%s\0" % (kind, name))
        if kind in (b"f", b"x"):
            found = known.get(name)
            digest = found[1] if found and found[0] == stamp else _digest(path)
            if max(stamp[-2:]) < now:
                index[name] = (stamp, digest)
            hasher.update(digest)
        elif kind == b"l":
            hasher.update(os.readlink(path) + b"\0")
    if index != known:
        publish(place, marshal.dumps((_FORMAT, index)))  # without it only slower next time
    elif known:
        touch(place)
    return Scan(hasher.digest(), stamps)


def stamp_of(status: os.stat_result) -> Stamp:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mode,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _walk(root: bytes) -> Iterator[tuple[bytes, bytes, Stamp]]:
    """Each entry with its kind, in an order that depends on names only."""
    pending = [root]
    while pending:
        directory = pending.pop()
        yield directory, b"d", stamp_of(os.lstat(directory))
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if not (directory == root and entry.name == b".git"):
                    pending.append(entry.path)
            else:
                yield entry.path, _kind(status.st_mode), stamp_of(status)


def _kind(mode: int) -> bytes:
    if stat.S_ISREG(mode):
        return b"x" if mode & stat.S_IXUSR else b"f"
    return b"l" if stat.S_ISLNK(mode) else b"?"


def _digest(path: bytes) -> bytes:
    try:
        with open(path, "rb", buffering=0) as stream:
            hasher = blake3.blake3()
            while data := stream.read(1 << 20):
                hasher.update(data)
            return hasher.digest()
    except OSError as error:
        return b"unreadable: %d" % (error.errno or 0)


def _index_file(root: bytes) -> Path:
    name = blake2b(root, digest_size=16).hexdigest()
    return cache_dir(os.environ) / "index" / name


def _read(place: Path) -> dict[bytes, tuple[Stamp, bytes]]:
    try:
        with place.open("rb") as stream:
            if os.fstat(stream.fileno()).st_uid != os.geteuid():
                return {}
            name, index = marshal.load(stream)
        return dict(index) if name == _FORMAT else {}
    except (OSError, ValueError, EOFError, TypeError):
        return {}
