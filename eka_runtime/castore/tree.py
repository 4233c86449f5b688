"""Reads a tree from disk, in the order of its NAR, into a castore node and a NAR hash.

Without recursion and with few descriptors (`descent.py`), so that depth costs nothing; relative to
open directories, so that long paths do not either. Small files are the hot path here: where there
are many, processes read and hash them (`tree_walk.py`), and what is left for this one is as little
as possible for each. Every file is read once; what the NAR's hash covers and what becomes a blob
are the same bytes, even if the file changes meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from eka_runtime.castore.assembly import Assembly
from eka_runtime.castore.batch import Batch
from eka_runtime.castore.blobs import PACKED_MAX
from eka_runtime.castore.descent import Descent
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.hashing import StreamHash
from eka_runtime.castore.intake import LARGE, Intake
from eka_runtime.castore.node import FileNode, SymlinkNode
from eka_runtime.castore.recorder import NarRecorder
from eka_runtime.castore.tree_walk import (
    FILE_FLAGS,
    Enter,
    Files,
    Found,
    GroupReader,
    Leave,
    Step,
    shown,
    unreadable,
    walk,
)
from eka_runtime.castore.workers import may_fork
from eka_runtime.closing import Closing
from eka_runtime.errors import CastoreError, StoreAccessError
from eka_runtime.nix import nar

if TYPE_CHECKING:
    from eka_runtime.castore.crew import Crew

# Framing and small files are joined up to so many bytes.
_FLUSH = 1 << 18

# As many files as make it worth while to start other processes, and how many of those.
HELPED_FROM = 1024
_HELPERS_MAX = 4
_SLOT = 1 << 21

# Half the time of calling the classes: for what is known to be right.
_new_node, _new_digest = tuple.__new__, bytes.__new__

_KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a fifo",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFDIR: "a directory",
}


class TreeReader(Closing):
    """One `read` or `read_flat`. Errors name the path; see `ingest_tree` for which there are."""

    def __init__(
        self,
        source: bytes,
        assembly: Assembly,
        intake: Intake,
        nar_hash: StreamHash,
        recorder: NarRecorder,
        adopting: Batch | None = None,
    ) -> None:
        self._source = source
        self._assembly = assembly
        self._intake = intake
        self._nar_hash = nar_hash
        self._recorder = recorder
        self._adopting = adopting
        self._nar = bytearray(nar.MAGIC)
        self._descent = Descent()
        self._names: list[bytes] = []  # of the open directories, the root's own is b""
        # For openat(2) and the like: the current directory, None for the root itself.
        self._fd: int | None = None

    def close(self) -> None:
        self._descent.close()

    def read(self) -> None:
        try:
            kind = stat.S_IFMT(os.lstat(self._source).st_mode)
        except OSError as error:
            raise self._unreadable(b"", error) from error
        if kind == stat.S_IFDIR:
            self._tree()
        else:
            self._leaf(b"", kind)
        self._flush()

    def _tree(self) -> None:
        steps = walk(self._source)
        first: list[Step] = []
        files = 0
        for step in steps:
            first.append(step)
            files += len(step.names) if isinstance(step, Files) else 0
            if files >= HELPED_FROM:
                break
        every = chain(first, steps)
        crew = self._crew() if files >= HELPED_FROM and may_fork() else None
        if crew is None:
            for step in every:
                self._step(step)
            return
        with crew:
            self._with_help(every, crew)

    def _crew(self) -> Crew[Files, list[Found | None]] | None:
        from eka_runtime.castore.crew import Crew

        number = min(len(os.sched_getaffinity(0)), _HELPERS_MAX)
        limit = LARGE if self._adopting is None else PACKED_MAX
        # Where no process or no memory is to be had, it goes without.
        with suppress(OSError):
            return Crew(GroupReader(self._source, limit), number, _SLOT)
        return None

    def _with_help(self, steps: Iterable[Step], crew: Crew[Files, list[Found | None]]) -> None:
        ahead: deque[Step] = deque()

        def tasks() -> Iterator[Files]:
            for step in steps:
                ahead.append(step)
                if isinstance(step, Files):
                    yield step

        for found, slot in crew.map(tasks()):
            while not isinstance(step := ahead.popleft(), Files):
                self._step(step)
            self._group(step.names, found, slot)
        for step in ahead:
            self._step(step)

    def _step(self, step: Step) -> None:
        if isinstance(step, Files):
            for name in step.names:
                self._entry(name, stat.S_IFREG)
        elif isinstance(step, Enter):
            self._enter(step.name)
        elif isinstance(step, Leave):
            self._leave()
        else:
            self._entry(step.name, step.kind)

    def _group(
        self, names: Iterable[bytes], found: Iterable[Found | None], slot: memoryview
    ) -> None:
        """Files that were read by a helper, if nothing about them is odd."""
        self._flush()
        run: list[tuple[bytes, Found]] = []
        begin = 0
        for name, one in zip(names, found, strict=True):
            if one is not None:
                run.append((name, one))
                continue
            begin = self._run(run, slot, begin)
            run = []
            self._entry(name, stat.S_IFREG)
            self._flush()
        self._run(run, slot, begin)

    def _run(self, run: list[tuple[bytes, Found]], slot: memoryview, begin: int) -> int:
        """Entries that lie in the slot from `begin` on, one behind the other; returns the end."""
        if not run:
            return begin
        _, size, _, start = run[-1][1]
        end = start + size + len(nar.file_close(size))
        piece = bytes(slot[begin:end])
        add_file, small = self._assembly.add_file, self._recorder.small
        before = self._nar_hash.size - begin
        for name, (digest, size, executable, start) in run:
            node = _new_node(FileNode, (_new_digest(B3Digest, digest), size, executable))
            if size < PACKED_MAX:
                small(node.digest, before + start, size)
            else:
                data = memoryview(piece)[start - begin : start - begin + size]
                self._beside(node, before + start, data)
            add_file(name, node)
        self._nar_hash.update(piece)
        return end

    def _beside(
        self, node: FileNode, begin: int, data: bytes | memoryview, fd: int | None = None
    ) -> None:
        """Contents from `begin` on in the NAR that get a file of their own."""
        self._recorder.large(begin, node.size)
        self._recorder.known(node.digest, node.size)
        self._intake.take(node.digest, data, node.executable, fd)

    def read_flat(self, content_hash: StreamHash) -> FileNode:
        """Takes the source for a regular file that is not executable, through symlinks."""
        node = self._file(b"", content_hash)
        self._flush()
        return node

    def _entry(self, name: bytes, kind: int) -> None:
        self._nar += nar.entry_open(name)
        self._leaf(name, kind)
        self._nar += nar.ENTRY_CLOSE

    def _leaf(self, name: bytes, kind: int) -> None:
        if kind == stat.S_IFREG:
            self._file(name)
        elif kind == stat.S_IFLNK:
            self._symlink(name)
        else:
            raise self._unfit(name, kind)

    def _enter(self, name: bytes) -> None:
        if len(self._names) == nar.MAX_DEPTH:
            raise CastoreError(
                f"{shown(self._path(name))}: directories are nested more than {nar.MAX_DEPTH} deep"
            )
        try:
            self._fd = self._descent.enter(name or self._source)
        except OSError as error:
            raise self._unreadable(name, error) from error
        if self._names:
            self._nar += nar.entry_open(name)
        self._names.append(name)
        self._nar += nar.DIRECTORY_OPEN
        self._assembly.directory(name)

    def _leave(self) -> None:
        try:
            self._descent.leave()
        except OSError as error:
            raise self._unreadable(b"", error) from error
        self._names.pop()
        self._nar += nar.NODE_CLOSE
        self._assembly.end_directory()
        if self._names:
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
        flags = FILE_FLAGS if content_hash else FILE_FLAGS | os.O_NOFOLLOW
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
        if content_hash is not None:
            content_hash.update(data)
        node = FileNode(B3Digest.of(data), size, executable)
        if size < PACKED_MAX:
            self._recorder.small(node.digest, self._nar_hash.size + len(self._nar), size)
            self._nar += data
        else:
            self._flush()
            self._beside(node, self._nar_hash.size, data, fd if self._adopts(fd) else None)
            self._nar_hash.update(data)
        return node

    def _large(
        self, name: bytes, fd: int, size: int, executable: bool, content_hash: StreamHash | None
    ) -> FileNode:
        self._flush()
        self._recorder.large(self._nar_hash.size, size)
        tees = [self._nar_hash.update] + ([content_hash.update] if content_hash else [])
        fill = partial(self._fill, name, fd)
        if self._adopts(fd):
            digest = self._intake.adopt(fd, size, executable, fill, tees)
        else:
            digest = self._intake.stream(size, executable, fill, tees)
        if os.read(fd, 1):
            raise self._changed(name)
        self._recorder.known(digest, size)
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

    def _path(self, name: bytes) -> list[bytes]:
        return [self._source, *self._names[1:], *[name] * bool(name and self._names)]

    def _unfit(self, name: bytes, kind: int) -> CastoreError:
        what = _KINDS.get(kind, "of an unknown kind")
        return CastoreError(
            f"{shown(self._path(name))} is {what}; the store holds files, directories and symlinks",
            hint="remove it, or add what is beside it",
        )

    def _changed(self, name: bytes) -> CastoreError:
        return CastoreError(
            f"{shown(self._path(name))} changed its size while it was read",
            hint="wait until nothing writes to it any more",
        )

    def _unreadable(self, name: bytes, error: OSError) -> StoreAccessError:
        return unreadable(self._path(name), error)
