"""The kernel's FUSE protocol spoken over /dev/fuse, for file systems that never change.

Every request is a header (`struct fuse_in_header`) and a body, every answer one write(2); all of it
is in native byte order (<linux/fuse.h>, protocol 7.28 of Linux 4.20 and later). What the kernel
knows once it may keep for ever: names, attributes, links, pages and listings never expire. OPEN,
OPENDIR and FLUSH are answered with ENOSYS, whereupon it never asks again, so that what was read
once costs what it costs on any other file system.

One thread answers. What takes its time (a download, the check of a large file) is said so by the
file system (`Slow`) and done by a few threads beside, after which the request is answered anew.
Out of scope: mounting (`fuse_mount.py`), writing, and what the files are.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Protocol

LOOKUP, FORGET, GETATTR, READLINK = 1, 2, 3, 5
OPEN, READ, STATFS, RELEASE = 14, 15, 17, 18
GETXATTR, LISTXATTR, FLUSH, INIT = 22, 23, 25, 26
OPENDIR, READDIR, RELEASEDIR = 27, 28, 29
DESTROY, BATCH_FORGET, READDIRPLUS = 38, 42, 44

ROOT_ID = 1
MAX_READ = 1 << 20

_MAJOR, _MINOR, _LEAST_MINOR = 7, 38, 28
_ASYNC_READ, _ATOMIC_O_TRUNC = 1 << 0, 1 << 3
_DO_READDIRPLUS, _READDIRPLUS_AUTO = 1 << 13, 1 << 14
_NO_OPEN_SUPPORT, _PARALLEL_DIROPS = 1 << 17, 1 << 18
_MAX_PAGES, _CACHE_SYMLINKS, _NO_OPENDIR_SUPPORT = 1 << 22, 1 << 23, 1 << 24
_EXPLICIT_INVAL_DATA = 1 << 25
_WANTED = (
    _ASYNC_READ
    | _ATOMIC_O_TRUNC
    | _DO_READDIRPLUS
    | _READDIRPLUS_AUTO
    | _NO_OPEN_SUPPORT
    | _PARALLEL_DIROPS
    | _MAX_PAGES
    | _CACHE_SYMLINKS
    | _EXPLICIT_INVAL_DATA
)
_KEEP_CACHE, _CACHE_DIR = 1 << 1, 1 << 3

_IN = struct.Struct("=IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
_OUT = struct.Struct("=IiQ")  # len error unique
_INIT_IN = struct.Struct("=IIII")  # major minor max_readahead flags
# major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages
_INIT_OUT = struct.Struct("=IIIIHHIIH34x")
_ATTR = struct.Struct("=6Q10I")
_ENTRY = struct.Struct("=4QII")  # nodeid generation entry_valid attr_valid and their nanoseconds
_INODE_AND_MODE = struct.Struct("=Q52xI")  # of an _ATTR
_ATTR_HEAD = struct.Struct("=QII")  # attr_valid attr_valid_nsec dummy
_READ_IN = struct.Struct("=QQI")  # fh offset size
_DIRENT = struct.Struct("=QQII")  # ino off namelen type
_STATFS = struct.Struct("=5Q10I")
_OPEN_OUT = struct.Struct("=QIi")
_PAIR = struct.Struct("=QQ")
_LONG = struct.Struct("=Q")
_COUNT = struct.Struct("=II")

_REQUEST_MAX = 1 << 16
_FOREVER = 0xFFFFFFFF  # seconds; the kernel cuts it to the longest time it knows
_NO_SUCH_NAME = _ENTRY.pack(0, 0, _FOREVER, 0, 0, 0) + bytes(_ATTR.size)
_NAME_MAX = 255
_BLOCK = 4096
_WORKERS = 4
_DOTS = (b".", b"..")
_DIRECTORY_TYPE = 4  # DT_DIR


class Slow(Exception):
    """Raised by a file system that must not answer yet: `work` makes it possible.

    Requests that wait for the same `key` are all answered when its work was done once. `work` runs
    in another thread, beside everything else, and raises an OSError that becomes their answer.
    """

    def __init__(self, key: object, work: Callable[[], None]) -> None:
        super().__init__(key)
        self.key = key
        self.work = work


class FileSystem(Protocol):
    """Whatever is served; all methods raise OSError, whose errno is the answer, or Slow.

    A node that was given out by `lookup` or `enter` stays known until it is forgotten as often.
    """

    live: bool
    """Whether names may come and go in the root directory (nowhere else)."""

    def lookup(self, parent: int, name: bytes) -> bytes | None:
        """What `pack_entry` made; None when there is no such name."""

    def forget(self, node: int, count: int) -> None: ...

    def attributes(self, node: int) -> bytes:
        """What `pack_attributes` made."""

    def read_link(self, node: int) -> bytes: ...

    def read(self, node: int, offset: int, size: int) -> bytes | memoryview:
        """Less than `size` bytes at the end only; a memoryview may be used again afterwards."""

    def listing(self, node: int) -> Sequence[tuple[bytes, object]]:
        """Names, and something for each that `enter` and `describe` understand."""

    def describe(self, parent: int, name: bytes, item: object) -> tuple[int, int]:
        """Inode number and type (the DT_ constants of readdir(3))."""

    def enter(self, parent: int, name: bytes, item: object) -> bytes:
        """As `lookup`."""


def pack_attributes(
    inode: int, mode: int, size: int, *, time: int, uid: int, gid: int, blocks: int
) -> bytes:
    """`struct fuse_attr`; `blocks` of 512 bytes, one link."""
    times = (time, time, time, 0, 0, 0)
    return _ATTR.pack(inode, size, blocks, *times, mode, 1, uid, gid, 0, _BLOCK, 0)


def pack_entry(node: int, attributes: bytes) -> bytes:
    """`struct fuse_entry_out`: a node, with its attributes, for ever."""
    return _ENTRY.pack(node, 0, _FOREVER, _FOREVER, 0, 0) + attributes


class Session:
    """One mounted file system: serves `device` until it is unmounted."""

    def __init__(self, device: int, files: FileSystem) -> None:
        self._device = device
        self._files = files
        # Held while a request is answered, by this thread or one of those beside.
        self._lock = threading.Lock()
        self._waiting: dict[object, list[bytes]] = {}
        self._queue: SimpleQueue[Slow] = SimpleQueue()
        self._workers = 0
        self._listings: dict[int, Sequence[tuple[bytes, object]]] = {}
        self._last_handle = 0
        self._answers: dict[int, Callable[[int, int, memoryview], bool]] = {
            LOOKUP: self._lookup,
            FORGET: self._forget,
            BATCH_FORGET: self._forget_many,
            GETATTR: self._attributes,
            READLINK: self._read_link,
            READ: self._read,
            READDIR: self._list,
            READDIRPLUS: self._list_plus,
            STATFS: self._statfs,
            GETXATTR: self._no_attribute,
            LISTXATTR: self._no_attributes,
            INIT: self._init,
            DESTROY: self._destroy,
        }
        if files.live:
            self._answers |= {OPENDIR: self._open_directory, RELEASEDIR: self._close_directory}

    def serve(self) -> None:
        """Returns when the file system was unmounted. Raises OSError."""
        request = bytearray(_REQUEST_MAX)
        buffers, view = [request], memoryview(request)
        device, lock = self._device, self._lock
        while True:
            try:
                size = os.readv(device, buffers)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                # The request was taken back before it could be read.
                if error.errno not in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    raise
                continue
            if not size:
                return
            with lock:
                self._handle(view[:size])

    def _handle(self, request: memoryview) -> None:
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        answer = self._answers.get(opcode)
        if answer is None:
            self._fail(unique, errno.ENOSYS)
            return
        try:
            answer(unique, node, request[_IN.size :])
        except Slow as slow:
            self._defer(slow, bytes(request))
        except OSError as error:
            self._fail(unique, error.errno or errno.EIO)
        except (struct.error, ValueError):
            self._fail(unique, errno.EINVAL)

    def _defer(self, slow: Slow, request: bytes) -> None:
        waiting = self._waiting.get(slow.key)
        if waiting is not None:
            waiting.append(request)
            return
        self._waiting[slow.key] = [request]
        if self._workers < min(_WORKERS, len(self._waiting)):
            self._workers += 1
            threading.Thread(target=self._work, name="eka-fuse", daemon=True).start()
        self._queue.put(slow)

    def _work(self) -> None:
        while True:
            slow = self._queue.get()
            failure = 0
            try:
                slow.work()
            except OSError as error:
                failure = error.errno or errno.EIO
            with self._lock:
                for request in self._waiting.pop(slow.key):
                    if failure:
                        self._fail(_IN.unpack_from(request)[2], failure)
                    else:
                        self._handle(memoryview(request))

    def _reply(self, unique: int, *parts: bytes | memoryview) -> bool:
        """False when nobody waits for the answer any more."""
        size = _OUT.size + sum(map(len, parts))
        try:
            os.writev(self._device, (_OUT.pack(size, 0, unique), *parts))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            return False
        return True

    def _fail(self, unique: int, code: int) -> None:
        try:
            os.write(self._device, _OUT.pack(_OUT.size, -code, unique))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def _init(self, unique: int, _: int, body: memoryview) -> bool:
        major, minor, readahead, flags = _INIT_IN.unpack_from(body)
        if major < _MAJOR or (major == _MAJOR and minor < _LEAST_MINOR):
            raise OSError(errno.EPROTO, "the kernel's FUSE is too old")
        wanted = _WANTED if self._files.live else _WANTED | _NO_OPENDIR_SUPPORT
        answer = _INIT_OUT.pack(
            _MAJOR,
            min(minor, _MINOR) if major == _MAJOR else _MINOR,
            max(readahead, MAX_READ),
            flags & wanted,
            64,
            48,
            _BLOCK,
            1,
            MAX_READ // _BLOCK,
        )
        return self._reply(unique, answer)

    def _destroy(self, unique: int, _: int, __: memoryview) -> bool:
        return self._reply(unique)

    def _lookup(self, unique: int, node: int, body: memoryview) -> bool:
        name = bytes(body).partition(b"\0")[0]
        if len(name) > _NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, "no such name is possible")
        entry = self._files.lookup(node, name)
        if entry is None:
            if self._files.live and node == ROOT_ID:
                raise OSError(errno.ENOENT, "no such name")
            return self._reply(unique, _NO_SUCH_NAME)
        return self._give(unique, [entry], entry)

    def _give(self, unique: int, entries: Sequence[bytes], answer: bytes | bytearray) -> bool:
        """What the kernel did not get it will not forget."""
        taken = self._reply(unique, memoryview(answer))
        if not taken:
            for entry in entries:
                self._files.forget(_LONG.unpack_from(entry)[0], 1)
        return taken

    def _forget(self, _: int, node: int, body: memoryview) -> bool:
        self._files.forget(node, _LONG.unpack_from(body)[0])
        return True

    def _forget_many(self, _: int, __: int, body: memoryview) -> bool:
        count, _dummy = _COUNT.unpack_from(body)
        for node, times in _PAIR.iter_unpack(body[_COUNT.size :][: count * _PAIR.size]):
            self._files.forget(node, times)
        return True

    def _attributes(self, unique: int, node: int, _: memoryview) -> bool:
        attributes = self._files.attributes(node)
        return self._reply(unique, _ATTR_HEAD.pack(_FOREVER, 0, 0), attributes)

    def _read_link(self, unique: int, node: int, _: memoryview) -> bool:
        return self._reply(unique, self._files.read_link(node))

    def _read(self, unique: int, node: int, body: memoryview) -> bool:
        _fh, offset, size = _READ_IN.unpack_from(body)
        return self._reply(unique, self._files.read(node, offset, min(size, MAX_READ)))

    def _list(self, unique: int, node: int, body: memoryview) -> bool:
        handle, offset, size = _READ_IN.unpack_from(body)
        answer, describe = bytearray(), self._files.describe
        listing = self._listing(handle, node)
        for number in range(offset, len(listing) + 2):
            name, item = _numbered(listing, number)
            inode, kind = (node, _DIRECTORY_TYPE) if item is None else describe(node, name, item)
            dirent = _dirent(number + 1, name, inode, kind)
            if len(answer) + len(dirent) > size:
                break
            answer += dirent
        return self._reply(unique, memoryview(answer))

    def _list_plus(self, unique: int, node: int, body: memoryview) -> bool:
        handle, offset, size = _READ_IN.unpack_from(body)
        answer, given = bytearray(), []
        listing = self._listing(handle, node)
        for number in range(offset, len(listing) + 2):
            name, item = _numbered(listing, number)
            if len(answer) + len(_NO_SUCH_NAME) + _dirent_size(name) > size:
                break
            if item is None:
                answer += bytes(len(_NO_SUCH_NAME))
                answer += _dirent(number + 1, name, node, _DIRECTORY_TYPE)
                continue
            entry = self._files.enter(node, name, item)
            given.append(entry)
            inode, mode = _INODE_AND_MODE.unpack_from(entry, _ENTRY.size)
            answer += entry
            answer += _dirent(number + 1, name, inode, mode >> 12)
        return self._give(unique, given, answer)

    def _listing(self, handle: int, node: int) -> Sequence[tuple[bytes, object]]:
        found = self._listings.get(handle) if handle else None
        return self._files.listing(node) if found is None else found

    def _open_directory(self, unique: int, node: int, _: memoryview) -> bool:
        """Of a root that changes, each handle has a listing of its own, and nothing is kept."""
        if node != ROOT_ID:
            return self._reply(unique, _OPEN_OUT.pack(0, _KEEP_CACHE | _CACHE_DIR, 0))
        listing = self._files.listing(node)
        self._last_handle += 1
        self._listings[self._last_handle] = listing
        return self._reply(unique, _OPEN_OUT.pack(self._last_handle, 0, 0))

    def _close_directory(self, unique: int, _: int, body: memoryview) -> bool:
        self._listings.pop(_LONG.unpack_from(body)[0], None)
        return self._reply(unique)

    def _statfs(self, unique: int, _: int, __: memoryview) -> bool:
        numbers = (0, 0, 0, 0, 0, _BLOCK, _NAME_MAX, _BLOCK)
        return self._reply(unique, _STATFS.pack(*numbers, *(0,) * 7))

    def _no_attribute(self, unique: int, _: int, __: memoryview) -> bool:
        raise OSError(errno.ENODATA, "no extended attributes")

    def _no_attributes(self, unique: int, _: int, body: memoryview) -> bool:
        size, _padding = _COUNT.unpack_from(body)
        return self._reply(unique, b"" if size else _COUNT.pack(0, 0))


def _numbered(listing: Sequence[tuple[bytes, object]], number: int) -> tuple[bytes, object | None]:
    """The dots are the first two of every directory; they come without an item."""
    return (_DOTS[number], None) if number < 2 else listing[number - 2]


def _dirent_size(name: bytes) -> int:
    return _DIRENT.size + (len(name) + 7 & ~7)


def _dirent(offset: int, name: bytes, inode: int, kind: int) -> bytes:
    padding = bytes(-len(name) & 7)
    return _DIRENT.pack(inode, offset, len(name), kind) + name + padding
