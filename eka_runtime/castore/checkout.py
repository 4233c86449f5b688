"""Castore trees as directories: to be bound at /nix/store, or to be taken out of the store.

With a Linker the tree is canonical, as every view must show it: files 0444 or 0555, directories
0555, mtime 1 everywhere, and files are hard links to blobs, so that it takes no space for data.
An inode has one mode and a limited number of links, so some files need another inode than the
blob's: their twins.

    TWINS/xx/<64 hex digits>-r0      a copy that is not executable of a blob that is
    TWINS/xx/<64 hex digits>-x0      the other way round
    TWINS/xx/<64 hex digits>-x1      the next one, when no more links to the former are allowed

Small blobs, which lie in packs, have no inode at all: theirs are twins, too. Twins share data with
blobs that are files where the file system can (copy_file_range makes reflinks). New ones are made
in a directory of their own, TWINS/.new-<random>/, and get their names when the caller has made
everything durable (`Linker.settle`): what has a name is trusted like a blob. Without a Linker files
are copied, with the modes and times that `nix-store --restore` leaves.

Nothing is atomic here: callers check out under a temporary name and rename.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

from eka_runtime.castore.blobs import PACKED_MAX, READ_SIZE, LocalBlobs
from eka_runtime.castore.descent import Descent
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.castore.placing import EXECUTABLE_MODE, FILE_MODE, MTIME_NS, finish, write_all
from eka_runtime.castore.services import (
    BlobService,
    DirectoryService,
    require_blob,
    require_directory,
)
from eka_runtime.closing import Closing
from eka_runtime.errors import StoreCorrupt
from eka_runtime.linux.syscalls import syncfs

DIRECTORY_MODE = 0o555
NEW_PREFIX = ".new-"

_TIMES = (MTIME_NS, MTIME_NS)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# From here on reflinks are worth the additional calls.
_COPY_RANGE_MIN = 1 << 20
_COPY_RANGE_MAX = 1 << 30
# What copy_file_range(2) answers between file systems, or where it is not known.
_NO_COPY_RANGE = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)


class Linker(Closing):
    """Where twins are kept, and those that are being made; a context manager for one checkout.

    `link` has the signature of os.link. With `stubs`, blobs that are files are not linked to:
    there will be stubs in their place, that overlayfs follows (`eka_runtime/view/overlay.py`).
    """

    def __init__(
        self, twins: Path, link: Callable[..., None] = os.link, *, stubs: bool = False
    ) -> None:
        self.twins = os.fspath(twins)
        self.link = link
        self.stubs = stubs
        self._fresh = f"{self.twins}/{NEW_PREFIX}{os.urandom(8).hex()}"
        self._new: dict[str, str] = {}

    def close(self) -> None:
        for file in self._new.values():
            with suppress(FileNotFoundError):
                os.unlink(file)
        with suppress(FileNotFoundError):
            os.rmdir(self._fresh)

    def find(self, name: str, node: FileNode) -> str | None:
        """The twin of this name (`xx/…`), also one that is not settled."""
        found = self._new.get(name)
        if found and os.path.lexists(found):
            return found
        place = f"{self.twins}/{name}"
        return place if _is(place, node) else None

    def create(self, name: str) -> tuple[int, str]:
        """A new file for a twin: its descriptor and where it is for now."""
        place = f"{self._fresh}/{len(self._new):x}"
        if not self._new:
            os.makedirs(self._fresh)
        self._new[name] = place
        return os.open(place, _NEW, 0o600), place

    def settle(self) -> None:
        """Syncs the file system, then gives new twins their names."""
        os.makedirs(self.twins, exist_ok=True)
        fd = os.open(self.twins, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        finally:
            os.close(fd)
        for name, place in self._new.items():
            try:
                os.rename(place, f"{self.twins}/{name}")
            except FileNotFoundError:
                os.makedirs(f"{self.twins}/{name[:2]}", exist_ok=True)
                os.rename(place, f"{self.twins}/{name}")
        self._new = {}


def checkout(
    node: Node,
    dest: Path,
    blobs: BlobService,
    directories: DirectoryService,
    *,
    link: Linker | None,
    canonical: bool = False,
) -> None:
    """Makes `node` at `dest`, which must not exist, and whose parent must.

    With a Linker, blobs that are local are linked to and must lie on the file system of `dest`.
    Without, copies have the modes and times that views have if they are to be `canonical`.
    Raises StoreCorrupt when something is missing or has another size, otherwise OSError; what was
    made up to then is left to the caller.
    """
    copier = _Canonical if canonical else _Copier
    maker = copier(blobs) if link is None else _Linking(blobs, link)
    descent = Descent()
    levels: list[Iterator[tuple[bytes, Node]]] = [iter([(os.fsencode(dest), node)])]
    try:
        while levels:
            dir_fd = descent.fd if descent.depth else None
            for name, child in levels[-1]:
                if isinstance(child, DirectoryNode):
                    os.mkdir(name, 0o700, dir_fd=dir_fd)
                    descent.enter(name)
                    levels.append(_entries(child, directories))
                    break
                if isinstance(child, SymlinkNode):
                    os.symlink(child.target, name, dir_fd=dir_fd)
                    maker.finish_symlink(name, dir_fd)
                else:
                    maker.make_file(name, child, dir_fd)
            else:
                levels.pop()
                if levels:
                    maker.finish_directory(descent.fd)
                    descent.leave()
    finally:
        descent.close()


def _entries(node: DirectoryNode, directories: DirectoryService) -> Iterator[tuple[bytes, Node]]:
    return iter(require_directory(directories, node.digest).entries)


class _Copier:
    """Independent files, with what Nix's restore gives them: 0644, 0755, and the present time.

    Whatever the umask says, since nix-store sets its own.
    """

    def __init__(self, blobs: BlobService) -> None:
        self._blobs = blobs

    def make_file(self, name: bytes, node: FileNode, dir_fd: int | None) -> None:
        fd = os.open(name, _NEW, 0o600, dir_fd=dir_fd)
        try:
            with require_blob(self._blobs, node.digest) as reader:
                _copy(reader, fd, node)
            self._finish_file(fd, node)
        finally:
            os.close(fd)

    def _finish_file(self, fd: int, node: FileNode) -> None:
        os.fchmod(fd, 0o755 if node.executable else 0o644)

    def finish_symlink(self, name: bytes, dir_fd: int | None) -> None:
        pass

    def finish_directory(self, fd: int) -> None:
        os.fchmod(fd, 0o755)


class _Canonical(_Copier):
    """Independent files with the metadata that hard links have."""

    def _finish_file(self, fd: int, node: FileNode) -> None:
        finish(fd, node.executable)

    def finish_symlink(self, name: bytes, dir_fd: int | None) -> None:
        os.utime(name, ns=_TIMES, dir_fd=dir_fd, follow_symlinks=False)

    def finish_directory(self, fd: int) -> None:
        os.fchmod(fd, DIRECTORY_MODE)
        os.utime(fd, ns=_TIMES)


class _Linking:
    """Hard links with canonical metadata."""

    def __init__(self, blobs: BlobService, linker: Linker) -> None:
        self._blobs = blobs
        self._linker = linker
        self._full: set[str] = set()

    def make_file(self, name: bytes, node: FileNode, dir_fd: int | None) -> None:
        if self._linker.stubs and (blob := self._file_name(node)):
            _make_stub(name, node, blob, dir_fd)
            return
        for source in self._sources(node):
            try:
                self._linker.link(source, name, dst_dir_fd=dir_fd, follow_symlinks=False)
                return
            except OSError as error:
                # A collection removes twins that no checkout uses: then it is made again.
                if error.errno == errno.EMLINK:
                    self._full.add(source)
                elif error.errno != errno.ENOENT or os.path.lexists(source):
                    raise

    def finish_symlink(self, name: bytes, dir_fd: int | None) -> None:
        os.utime(name, ns=_TIMES, dir_fd=dir_fd, follow_symlinks=False)

    def finish_directory(self, fd: int) -> None:
        os.fchmod(fd, DIRECTORY_MODE)
        os.utime(fd, ns=_TIMES)

    def _sources(self, node: FileNode) -> Iterator[str]:
        """Inodes that the file may be linked to, without end."""
        blob = self._blob(node)
        if blob and blob not in self._full:
            yield blob
        kind, digits = "x" if node.executable else "r", node.digest.hex()
        for number in count():
            twin = f"{digits[:2]}/{digits}-{kind}{number}"
            while (place := self._linker.find(twin, node) or self._make_twin(twin, node)) and (
                place not in self._full
            ):
                yield place

    def _file_name(self, node: FileNode) -> str | None:
        """Of the blob, below the blob directory."""
        row = self._blobs.row(node.digest) if isinstance(self._blobs, LocalBlobs) else None
        return row.name or None if row else None

    def _blob(self, node: FileNode) -> str | None:
        """The blob's own file, if it has the mode that is needed."""
        if not isinstance(self._blobs, LocalBlobs):
            return None
        row = self._blobs.row(node.digest)
        if row is None or not row.name:
            return None
        path = f"{self._blobs.directory}/{row.name}"
        return path if _is(path, node) else None

    def _make_twin(self, name: str, node: FileNode) -> str:
        fd, place = self._linker.create(name)
        try:
            with require_blob(self._blobs, node.digest) as reader:
                if node.size < PACKED_MAX:
                    _copy_verified(reader, fd, node)
                else:
                    _copy(reader, fd, node)
            finish(fd, node.executable)
        finally:
            os.close(fd)
        return place


def _make_stub(name: bytes, node: FileNode, blob: str, dir_fd: int | None) -> None:
    fd = os.open(name, _NEW, 0o600, dir_fd=dir_fd)
    try:
        os.ftruncate(fd, node.size)
        # Before the mode: whoever may not write a file may not set these.
        os.setxattr(fd, "user.overlay.metacopy", b"")
        os.setxattr(fd, "user.overlay.redirect", b"/" + blob.encode())
        finish(fd, node.executable)
    finally:
        os.close(fd)


def _is(path: str, node: FileNode) -> bool:
    mode = EXECUTABLE_MODE if node.executable else FILE_MODE
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return status.st_mode & 0o7777 == mode and status.st_size == node.size


def _copy_verified(reader: BinaryIO, fd: int, node: FileNode) -> None:
    """Twins are trusted by everybody, and for a small blob looking costs next to nothing."""
    data = reader.read(PACKED_MAX)
    if B3Digest.of(data) != node.digest:
        raise StoreCorrupt(f"blob {node.digest} is damaged", hint="run `eka store verify --repair`")
    write_all(fd, data)


def _copy(reader: BinaryIO, fd: int, node: FileNode) -> None:
    size = _copy_range(reader, fd, node.size) if node.size >= _COPY_RANGE_MIN else 0
    if size:
        reader.seek(size)
    while data := reader.read(READ_SIZE):
        write_all(fd, data)
        size += len(data)
    if size != node.size:
        raise StoreCorrupt(
            f"blob {node.digest} has {size} bytes, not {node.size}",
            hint="run `eka store verify`",
        )


def _copy_range(reader: BinaryIO, fd: int, size: int) -> int:
    """Copies up to `size` bytes inside the kernel and returns how many."""
    done = 0
    try:
        source = reader.fileno()
        while done < size:
            step = os.copy_file_range(source, fd, min(size - done, _COPY_RANGE_MAX), done)
            if not step:
                break
            done += step
    except io.UnsupportedOperation:
        pass
    except OSError as error:
        if error.errno not in _NO_COPY_RANGE:
            raise
    return done
