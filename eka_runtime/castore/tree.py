"""Reads a tree from disk, in the order of its NAR, into a castore node and a NAR hash.

Without recursion and with few descriptors (`descent.py`), so that depth costs nothing; relative to
open directories, so that long paths do not either. Small files are the hot path here: a dozen
system calls and as little else as possible for each. Every file is read once; what the NAR's hash
covers and what becomes a blob are the same bytes, even if the file changes meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from eka_runtime.castore.assembly import Assembly
from eka_runtime.castore.batch import Batch
from eka_runtime.castore.blobs import PACKED_MAX
from eka_runtime.castore.descent import Descent
from eka_runtime.castore.hashing import StreamHash
from eka_runtime.castore.intake import LARGE, Intake
from eka_runtime.castore.node import FileNode, SymlinkNode
from eka_runtime.closing import Closing
from eka_runtime.errors import CastoreError, StoreAccessError
from eka_runtime.nix import nar

# O_NONBLOCK: a fifo that took the place of a file must not make us wait for a writer.
_FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# Framing and small files are joined up to _FLUSH bytes; contents from _APART on are not copied.
_FLUSH = 1 << 18
_APART = 1 << 16

_KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a fifo",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFDIR: "a directory",
}


class _Level(NamedTuple):
    """A directory being read: its name, and name and kind of each entry that is left."""

    name: bytes
    entries: Iterator[tuple[bytes, int]]


class TreeReader(Closing):
    """One `read` or `read_flat`. Errors name the path; see `ingest_tree` for which there are."""

    def __init__(
        self,
        source: bytes,
        assembly: Assembly,
        intake: Intake,
        nar_hash: StreamHash,
        adopting: Batch | None = None,
    ) -> None:
        self._source = source
        self._assembly = assembly
        self._intake = intake
        self._nar_hash = nar_hash
        self._adopting = adopting
        self._nar = bytearray(nar.MAGIC)
        self._descent = Descent()
        self._levels: list[_Level] = []
        # For openat(2) and the like: the current directory, None for the root itself.
        self._fd: int | None = None

    def close(self) -> None:
        self._descent.close()

    def read(self) -> None:
        try:
            kind = stat.S_IFMT(os.lstat(self._source).st_mode)
        except OSError as error:
            raise self._unreadable(b"", error) from error
        self._node(b"", kind)
        while self._levels:
            for name, kind in self._levels[-1].entries:
                self._nar += nar.entry_open(name)
                if self._node(name, kind):
                    break
            else:
                self._leave()
        self._flush()

    def read_flat(self, content_hash: StreamHash) -> FileNode:
        """Takes the source for a regular file that is not executable, through symlinks."""
        node = self._file(b"", content_hash)
        self._flush()
        return node

    def _node(self, name: bytes, kind: int) -> bool:
        """Reads a node; for a directory only begins to, and returns True."""
        if kind == stat.S_IFREG:
            self._file(name)
        elif kind == stat.S_IFDIR:
            self._enter(name)
            return True
        elif kind == stat.S_IFLNK:
            self._symlink(name)
        else:
            raise self._unfit(name, kind)
        if self._levels:
            self._nar += nar.ENTRY_CLOSE
        return False

    def _enter(self, name: bytes) -> None:
        if len(self._levels) == nar.MAX_DEPTH:
            raise CastoreError(
                f"{self._path(name)}: directories are nested more than {nar.MAX_DEPTH} deep"
            )
        try:
            self._fd = self._descent.enter(name or self._source)
            with os.scandir(self._fd) as found:
                entries = sorted([(os.fsencode(entry.name), _kind(entry)) for entry in found])
        except OSError as error:
            raise self._unreadable(name, error) from error
        self._levels.append(_Level(name, iter(entries)))
        self._nar += nar.DIRECTORY_OPEN
        self._assembly.directory(name)

    def _leave(self) -> None:
        try:
            self._descent.leave()
        except OSError as error:
            raise self._unreadable(b"", error) from error
        self._levels.pop()
        self._nar += nar.NODE_CLOSE
        self._assembly.end_directory()
        if self._levels:
            self._fd = self._descent.fd
            self._nar += nar.ENTRY_CLOSE

    def _symlink(self, name: bytes) -> None:
        try:
            target = os.readlink(name or self._source, dir_fd=self._fd)
        except OSError as error:
            raise self._unreadable(name, error) from error
        self._nar += nar.symlink(target)
        self._assembly.add(name, SymlinkNode(target))

    def _file(self, name: bytes, content_hash: StreamHash | None = None) -> FileNode:
        flags = _FILE_FLAGS if content_hash else _FILE_FLAGS | os.O_NOFOLLOW
        try:
            fd = os.open(name or self._source, flags, dir_fd=self._fd)
            try:
                status = os.fstat(fd)
                mode, size = status.st_mode, status.st_size
                if not stat.S_ISREG(mode):
                    raise self._unfit(name, stat.S_IFMT(mode))
                executable = bool(mode & stat.S_IXUSR) and not content_hash
                self._nar += nar.file_header(executable, size)
                if size < LARGE:
                    node = self._small(name, fd, size, executable, content_hash)
                else:
                    node = self._large(name, fd, size, executable, content_hash)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._unreadable(name, error) from error
        self._nar += nar.padding(size) + nar.NODE_CLOSE
        if len(self._nar) >= _FLUSH:
            self._flush()
        self._assembly.add_file(name, node)
        return node

    def _small(
        self, name: bytes, fd: int, size: int, executable: bool, content_hash: StreamHash | None
    ) -> FileNode:
        # One byte more than there should be: a file that has grown tells without another call.
        data = os.read(fd, size + 1)
        while 0 < len(data) < size and (more := os.read(fd, size + 1 - len(data))):
            data += more
        if len(data) != size:
            raise self._changed(name)
        if size < _APART:
            self._nar += data
        else:
            self._flush()
            self._nar_hash.update(data)
        if content_hash is not None:
            content_hash.update(data)
        adopted = fd if size >= PACKED_MAX and self._adopts(fd) else None
        return FileNode(self._intake.add(data, executable, adopted), size, executable)

    def _large(
        self, name: bytes, fd: int, size: int, executable: bool, content_hash: StreamHash | None
    ) -> FileNode:
        self._flush()
        tees = [self._nar_hash.update] + ([content_hash.update] if content_hash else [])
        fill = partial(self._fill, name, fd)
        if self._adopts(fd):
            digest = self._intake.adopt(fd, size, executable, fill, tees)
        else:
            digest = self._intake.stream(size, executable, fill, tees)
        if os.read(fd, 1):
            raise self._changed(name)
        return FileNode(digest, size, executable)

    def _adopts(self, fd: int) -> bool:
        return self._adopting is not None and self._adopting.adopts(fd)

    def _fill(self, name: bytes, fd: int, view: memoryview) -> None:
        while view:
            count = os.readv(fd, [view])
            if not count:
                raise self._changed(name)
            view = view[count:]

    def _flush(self) -> None:
        self._nar_hash.update(self._nar)
        self._nar = bytearray()

    def _path(self, name: bytes) -> str:
        below = [level.name for level in self._levels[1:]] + [name] * bool(name and self._levels)
        return b"/".join([self._source, *below]).decode("utf-8", "backslashreplace")

    def _unfit(self, name: bytes, kind: int) -> CastoreError:
        what = _KINDS.get(kind, "of an unknown kind")
        return CastoreError(
            f"{self._path(name)} is {what}; the store holds files, directories and symlinks",
            hint="remove it, or add what is beside it",
        )

    def _changed(self, name: bytes) -> CastoreError:
        return CastoreError(
            f"{self._path(name)} changed its size while it was read",
            hint="wait until nothing writes to it any more",
        )

    def _unreadable(self, name: bytes, error: OSError) -> StoreAccessError:
        return StoreAccessError(
            f"cannot read {self._path(name)}: {error.strerror}",
            hint="check that it exists and that you may read it",
        )


def _kind(entry: os.DirEntry[str]) -> int:
    # Mostly the kernel has told already: one system call less for each entry.
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
