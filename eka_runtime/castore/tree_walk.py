"""The steps in which a tree on disk is read, found out ahead of the reading, and help with it.

Names come in the order of a NAR. Regular files that follow each other are one step of up to
GROUP, and may be read in another process (`GroupReader`), which opens what is below the root as its
parent does: never through a symlink.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from blake3 import blake3

from eka_runtime.castore.descent import DIRECTORY_FLAGS, Descent
from eka_runtime.errors import StoreAccessError
from eka_runtime.nix import nar

GROUP = 64
"""More, and a group of files as they usually are would not have room in a slot."""

# O_NONBLOCK: a fifo that took the place of a file must not make us wait for a writer.
FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_NAMES = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

Found = tuple[bytes, int, bool, int]
"""Of a file: digest, size, whether the owner may execute it, and where its contents begin."""


class Enter(NamedTuple):
    """A directory begins; b"" is the root."""

    name: bytes


class Leave(NamedTuple):
    """The directory is over."""


class Files(NamedTuple):
    """Regular files of the present directory, `parts` below the root."""

    parts: tuple[bytes, ...]
    names: tuple[bytes, ...]


class Other(NamedTuple):
    """Neither a regular file nor a directory."""

    name: bytes
    kind: int


Step = Enter | Leave | Files | Other


def walk(source: bytes) -> Iterator[Step]:
    """Of a directory; StoreAccessError names what cannot be read."""
    descent = Descent()
    names: list[bytes] = []
    try:
        levels = [_entries(descent, source, [source])]
        yield Enter(b"")
        while levels:
            group: list[bytes] = []
            for name, kind in levels[-1]:
                if kind == stat.S_IFREG:
                    group.append(name)
                    if len(group) < GROUP:
                        continue
                if group:
                    yield Files(tuple(names), tuple(group))
                    group = []
                if kind == stat.S_IFDIR:
                    names.append(name)
                    levels.append(_entries(descent, name, [source, *names]))
                    yield Enter(name)
                    break
                if kind != stat.S_IFREG:
                    yield Other(name, kind)
            else:
                if group:
                    yield Files(tuple(names), tuple(group))
                _up(descent, [source, *names])
                levels.pop()
                names = names[:-1]
                yield Leave()
    finally:
        descent.close()


def _entries(descent: Descent, name: bytes, path: list[bytes]) -> Iterator[tuple[bytes, int]]:
    try:
        with os.scandir(descent.enter(name)) as found:
            # Not os.fsencode, which takes longer than all the rest.
            return iter(sorted([(entry.name.encode(*_NAMES), _kind(entry)) for entry in found]))
    except OSError as error:
        raise unreadable(path, error) from error


def _up(descent: Descent, path: list[bytes]) -> None:
    try:
        descent.leave()
    except OSError as error:
        raise unreadable(path, error) from error


def _kind(entry: os.DirEntry[str]) -> int:
    # Mostly the kernel has told already: one system call less for each entry.
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)


def shown(path: list[bytes]) -> str:
    return b"/".join(path).decode("utf-8", "backslashreplace")


def unreadable(path: list[bytes], error: OSError) -> StoreAccessError:
    return StoreAccessError(
        f"cannot read {shown(path)}: {error.strerror}",
        hint="check that it exists and that you may read it",
    )


class GroupReader:
    """Reads groups of files below `source`, of those that have fewer than `limit` bytes.

    Their entries in a NAR fill a slot, one behind the other.

    In place of a file that is larger, that has no room, or about which anything is odd, there is
    None: whoever asks reads it himself, and says what is wrong with it.
    """

    def __init__(self, source: bytes, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._parts: tuple[bytes, ...] | None = None
        self._fd = -1

    def __call__(self, files: Files, slot: memoryview) -> list[Found | None]:
        try:
            self._enter(files.parts)
        except OSError:
            return [None] * len(files.names)
        found: list[Found | None] = []
        position = 0
        for name in files.names:
            one, position = self._read(name, slot, position)
            found.append(one)
        return found

    def _enter(self, parts: tuple[bytes, ...]) -> None:
        if parts == self._parts:
            return
        fd = os.open(self._source, DIRECTORY_FLAGS)
        try:
            for part in parts:
                above, fd = fd, os.open(part, DIRECTORY_FLAGS, dir_fd=fd)
                os.close(above)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._parts = fd, parts

    def _read(self, name: bytes, slot: memoryview, start: int) -> tuple[Found | None, int]:
        """And where the next one begins."""
        with suppress(OSError):
            fd = os.open(name, FILE_FLAGS | os.O_NOFOLLOW, dir_fd=self._fd)
            try:
                status = os.fstat(fd)
                mode, size = status.st_mode, status.st_size
                executable = bool(mode & stat.S_IXUSR)
                head, tail = nar.file_open(name, executable, size), nar.file_close(size)
                begin = start + len(head)
                stop = begin + size
                end = stop + len(tail)
                if not stat.S_ISREG(mode) or size >= self._limit or end > len(slot):
                    return None, start
                # Room for one byte more than there should be: a file that has grown tells.
                if os.readv(fd, [slot[begin : stop + 1]]) == size:
                    slot[start:begin], slot[stop:end] = head, tail
                    digest = blake3(slot[begin:stop]).digest()
                    return (digest, size, executable, begin), end
            finally:
                os.close(fd)
        return None, start
