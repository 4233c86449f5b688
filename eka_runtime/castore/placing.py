"""Files that appear under their names complete or not at all: steps 1 to 3 of `batch.py`.

Works on two directories of one file system, through descriptors, so that a rename of the store
meanwhile does no harm. Raises OSErrors; advice is the caller's business.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from typing import NamedTuple

SHARD_LENGTH = 2
MTIME_NS = 10**9
FILE_MODE, EXECUTABLE_MODE = 0o444, 0o555

_TIMES = (MTIME_NS, MTIME_NS)
_BLOCK = 512  # what st_blocks counts in, whatever the file system's
_SPARE = 1 << 16
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CLOEXEC
_UNNAMED = os.O_TMPFILE | _NEW
# What file systems answer that have no O_TMPFILE: open(2).
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)


class NewFile(NamedTuple):
    """An open file in the making; `name` is empty when it has none."""

    fd: int
    name: str


class Placing:
    """Makes files in `tmp` and links them below `target`; safe to use from several threads.

    `unnamed` may be false to do without O_TMPFILE, as happens by itself where there is none.
    """

    def __init__(self, tmp: str, target: str, *, unnamed: bool = True) -> None:
        self._named: set[str] = set()
        self._proc_fd = -1
        with ExitStack() as opened:
            self._tmp_fd = _opened(opened, tmp)
            self.fd = _opened(opened, target)
            with suppress(OSError):
                self._proc_fd = _opened(opened, "/proc/self/fd")
            self._unnamed = unnamed and self._proc_fd >= 0
            self._opened = opened.pop_all()

    @property
    def leaves_nothing(self) -> bool:
        """Whether what is in the making goes with its process, as far as is known by now."""
        return self._unnamed

    def close(self) -> None:
        for name in self._named:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._tmp_fd)
        self._opened.close()

    def create(self, flags: int = 0) -> NewFile:
        """`flags` may be O_DIRECT, which is dropped where it is not known."""
        if self._unnamed:
            try:
                return NewFile(os.open(".", _UNNAMED | flags, 0o600, dir_fd=self._tmp_fd), "")
            except OSError as error:
                if error.errno == errno.EINVAL and flags:
                    return self.create()
                if error.errno not in _NO_TMPFILE:
                    raise
                self._unnamed = False
        name = os.urandom(16).hex()
        self._named.add(name)
        fd = os.open(name, _NEW | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._tmp_fd)
        return NewFile(fd, name)

    def drop(self, file: NewFile) -> None:
        """Closes the file and forgets its temporary name; where it was placed it stays."""
        os.close(file.fd)
        if file.name:
            os.unlink(file.name, dir_fd=self._tmp_fd)
            self._named.discard(file.name)

    def place(self, file: NewFile, name: str) -> bool:
        """Links a finished file at `xx/…`; False when the name is taken."""
        try:
            self._link(file, name, self.fd)
        except FileExistsError:
            return False
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(name[:SHARD_LENGTH], dir_fd=self.fd)
            try:
                self._link(file, name, self.fd)
            except FileExistsError:
                return False
        return True

    def adopts(self, fd: int) -> bool:
        """Whether the file of a descriptor can be placed as it is."""
        status = os.fstat(fd)
        if self._proc_fd < 0 or status.st_dev != os.fstat(self.fd).st_dev:
            return False
        if status.st_blocks * _BLOCK > status.st_size + _SPARE:
            # Room that fallocate(2) reserved beyond the end would stay with the blob, unaccounted.
            return False
        with suppress(OSError):
            # What overlayfs reads from extended attributes, whoever set them.
            return not os.listxattr(fd)
        return True

    def remove(self, name: str) -> None:
        """Takes back what was placed; absent is fine."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def _link(self, file: NewFile, name: str, directory_fd: int) -> None:
        if file.name:
            os.link(file.name, name, src_dir_fd=self._tmp_fd, dst_dir_fd=directory_fd)
        else:
            # The only way for an unprivileged process to name such a file: open(2), O_TMPFILE.
            # Python's link() follows the symlink only because it is given directories, too.
            os.link(str(file.fd), name, src_dir_fd=self._proc_fd, dst_dir_fd=directory_fd)


def finish(fd: int, executable: bool) -> None:
    """Gives a file the mode and the time that every blob has."""
    os.fchmod(fd, EXECUTABLE_MODE if executable else FILE_MODE)
    os.utime(fd, ns=_TIMES)


def write_all(fd: int, data: bytes | memoryview) -> None:
    written = os.write(fd, data)
    if written != len(data):
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def _opened(stack: ExitStack, path: str) -> int:
    fd = os.open(path, _DIRECTORY)
    stack.callback(os.close, fd)
    return fd
