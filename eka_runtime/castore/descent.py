"""Going down a directory tree of any depth with a bounded number of descriptors.

A path is limited to 4096 bytes and a process to perhaps 1024 open files; a tree is limited by
neither. So directories are opened relative to their parents, the nearest ones are kept open, and
the others are opened again on the way back, through "..". That ".." is still the directory it was
is checked, since a tree may be moved while it is read.
"""

from __future__ import annotations

import errno
import os

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_KEPT = 64


class Descent:
    """The open directories from a root down to the current one, `fd`. Errors are OSErrors."""

    def __init__(self) -> None:
        # A directory: its descriptor, -1 while closed, and its device and inode while closed.
        self._levels: list[tuple[int, tuple[int, int]]] = []

    @property
    def fd(self) -> int:
        return self._levels[-1][0]

    @property
    def depth(self) -> int:
        return len(self._levels)

    def enter(self, name: bytes, dir_fd: int | None = None) -> int:
        """Opens a directory of the current one, or of `dir_fd` at the beginning."""
        parent = self.fd if self._levels else dir_fd
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
        if len(self._levels) >= _KEPT:
            self._shut(len(self._levels) - _KEPT)
        self._levels.append((fd, (0, 0)))
        return fd

    def leave(self) -> None:
        """Goes back to the parent, if there is one."""
        fd, _ = self._levels[-1]
        if len(self._levels) > 1 and self._levels[-2][0] < 0:
            self._reopen(len(self._levels) - 2, fd)
        self._levels.pop()
        os.close(fd)

    def close(self) -> None:
        for fd, _ in self._levels:
            if fd >= 0:
                os.close(fd)
        self._levels.clear()

    def _shut(self, level: int) -> None:
        fd, _ = self._levels[level]
        if fd >= 0:
            status = os.fstat(fd)
            os.close(fd)
            self._levels[level] = (-1, (status.st_dev, status.st_ino))

    def _reopen(self, level: int, child: int) -> None:
        fd = os.open("..", DIRECTORY_FLAGS, dir_fd=child)
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != self._levels[level][1]:
            os.close(fd)
            raise OSError(errno.ESTALE, "the directory was moved meanwhile")
        self._levels[level] = (fd, (0, 0))
