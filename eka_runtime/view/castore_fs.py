"""A read-only file system over the castore, for `eka_runtime.linux.fuse` to serve.

Every file is one inode for each pair of contents and executable bit, wherever it occurs, so that
the kernel keeps its pages once. Links are shared by their targets. A directory has an inode for
every place: the kernel allows a directory one parent. Inode numbers follow from the contents (for
directories from the place as well), so they are the same whenever it is mounted.

Attributes are those of every view: 0444 and 0555, links 0777, modification time 1, one link (which
for a directory says that its subdirectories were not counted). Nothing is read before it was asked
for, and nothing is shown before it has the digest asked for; whatever cannot be had is EIO, and
logged. Kept are the inodes that the kernel knows, some directories, and what `verified.py` keeps.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from blake3 import blake3

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.castore.services import BlobService, DirectoryService, require_directory
from eka_runtime.errors import EkaError, InvalidStorePath
from eka_runtime.linux.fuse import ROOT_ID, Slow, pack_attributes, pack_entry
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.view.verified import Verified

Entries = Sequence[tuple[bytes, Node]]

_FILE, _EXECUTABLE, _LINK, _DIRECTORY = (
    stat.S_IFREG | 0o444,
    stat.S_IFREG | 0o555,
    stat.S_IFLNK | 0o777,
    stat.S_IFDIR | 0o555,
)
_MTIME = 1
_DIRECTORY_SIZE = 4096  # what ext4 and most others say of a small one
_KEPT_ENTRIES = 100_000
_AT_ONCE = 1 << 20
"""Larger contents are verified beside other requests, even if they are on this disk."""

_FAILURES = (EkaError, OSError, sqlite3.Error)


class Root(Protocol):
    """The names in the root directory."""

    live: bool

    def get(self, name: bytes) -> Node | None: ...

    @property
    def entries(self) -> Entries:
        """Sorted by name."""


class Fixed:
    """Exactly the entries of a directory, as of the closure of a run."""

    live = False

    def __init__(self, directory: Directory) -> None:
        self.get = directory.get
        self.entries = directory.entries


class KnownPaths(Protocol):
    """The part of a PathInfoService that reads."""

    def by_hash(self, digits: str) -> PathInfo | None: ...

    def all(self) -> Iterator[PathInfo]: ...


class AllPaths:
    """Every valid path, also those that become valid later."""

    live = True

    def __init__(self, paths: KnownPaths) -> None:
        self._paths = paths

    def get(self, name: bytes) -> Node | None:
        try:
            path = StorePath.from_base(name.decode())
        except (InvalidStorePath, UnicodeDecodeError):
            return None
        info = self._paths.by_hash(path.hash)
        return info.node if info is not None and info.path == path else None

    @property
    def entries(self) -> Entries:
        return sorted((info.path.base.encode(), info.node) for info in self._paths.all())


class Sources(NamedTuple):
    """`local` says that blobs and directories are on this disk, so that reading is no journey."""

    root: Root
    blobs: BlobService
    directories: DirectoryService
    local: bool


class _Inode:
    """`key` is under what it is found again: its node, or for a directory its place."""

    __slots__ = ("entry", "key", "lookups", "node", "number", "verified")

    def __init__(self, key: object, node: Node, number: int, entry: bytes) -> None:
        self.key = key
        self.node = node
        self.number = number
        self.entry = entry
        self.lookups = 0
        self.verified = False


class CastoreFs:
    """A FileSystem for a `Session`. `log` gets a line for everything that could not be had."""

    def __init__(self, sources: Sources, log: Callable[[str], None]) -> None:
        self.live = sources.root.live
        self._root = sources.root
        self._local = sources.local
        self._service = sources.directories
        self._contents = Verified(sources.blobs)
        self._log = log
        self._owner = os.geteuid(), os.getegid()
        attributes = self._pack(ROOT_ID, _DIRECTORY, _DIRECTORY_SIZE)
        self._root_attributes = attributes
        self._inodes: dict[int, _Inode] = {}
        self._ids: dict[object, int] = {}
        self._last_id = ROOT_ID
        self._directories: OrderedDict[B3Digest, Directory] = OrderedDict()
        self._entries = 0
        self._found: dict[object, Any] = {}

    def close(self) -> None:
        self._contents.close()

    def lookup(self, parent: int, name: bytes) -> bytes | None:
        node = self._in_root(name) if parent == ROOT_ID else self._directory(parent).get(name)
        return None if node is None else self.enter(parent, name, node)

    def enter(self, parent: int, name: bytes, item: object) -> bytes:
        node: Any = item
        key = (parent, name) if isinstance(node, DirectoryNode) else node
        number = self._ids.get(key)
        if number is None:
            number = self._make(parent, name, key, node)
        inode = self._inodes[number]
        inode.lookups += 1
        return inode.entry

    def forget(self, node: int, count: int) -> None:
        inode = self._inodes.get(node)
        if inode is None:
            return
        inode.lookups -= count
        if inode.lookups <= 0:
            del self._inodes[node]
            if self._ids.get(inode.key) == node:
                del self._ids[inode.key]

    def attributes(self, node: int) -> bytes:
        if node == ROOT_ID:
            return self._root_attributes
        return self._inode(node).entry[-len(self._root_attributes) :]

    def read_link(self, node: int) -> bytes:
        link = self._inode(node).node
        if not isinstance(link, SymlinkNode):
            raise OSError(errno.EINVAL, "not a symbolic link")
        return link.target

    def read(self, node: int, offset: int, size: int) -> bytes | memoryview:
        inode = self._inode(node)
        file = inode.node
        if not isinstance(file, FileNode):
            raise OSError(errno.EINVAL, "not a file")
        size = min(size, file.size - offset)
        if size <= 0:
            return b""
        data = self._contents.read(file[:2], offset, size)
        if data is None:
            self._fetch(inode, file)
            data = self._contents.read(file[:2], offset, size)
            if data is None:
                raise OSError(errno.EIO, "dropped at once")
        return data

    def listing(self, node: int) -> Entries:
        if node == ROOT_ID:
            entries: Entries = self._in_root(None)
            return entries
        return self._directory(node).entries

    def describe(self, parent: int, name: bytes, item: object) -> tuple[int, int]:
        node: Any = item
        return self._number(parent, name, node), _mode(node) >> 12

    def _in_root(self, name: bytes | None) -> Any:
        """The node with that name, or all entries."""

        def ask() -> Node | Entries | None:
            return self._root.entries if name is None else self._root.get(name)

        return self._asked(("root", name), "the store", ask) if self.live else ask()

    def _asked(self, key: object, what: str, ask: Callable[[], Any]) -> Any:
        """The answer of a service, if that is far not before another thread has asked it."""
        if self._local:
            return self._guarded(what, ask)
        if key in self._found:
            return self._found.pop(key)

        def work() -> None:
            self._found[key] = self._guarded(what, ask)

        raise Slow(key, work)

    def _make(self, parent: int, name: bytes, key: object, node: Node) -> int:
        number = self._number(parent, name, node)
        size = _DIRECTORY_SIZE
        if isinstance(node, FileNode):
            size = node.size
        elif isinstance(node, SymlinkNode):
            size = len(node.target)
        attributes = self._pack(number, _mode(node), size)
        self._last_id += 1
        self._ids[key] = self._last_id
        entry = pack_entry(self._last_id, attributes)
        self._inodes[self._last_id] = _Inode(key, node, number, entry)
        return self._last_id

    def _pack(self, number: int, mode: int, size: int) -> bytes:
        blocks = 0 if stat.S_ISLNK(mode) else -(-size // 4096) * 8
        uid, gid = self._owner
        return pack_attributes(
            number, mode, size, time=_MTIME, uid=uid, gid=gid, blocks=min(blocks, 1 << 62)
        )

    def _number(self, parent: int, name: bytes, node: Node) -> int:
        """The inode number: 63 bits, because some programs take it for a signed number."""
        if isinstance(node, FileNode):
            return int.from_bytes(node.digest[:8], "little") >> 2 << 1 | node.executable
        if isinstance(node, SymlinkNode):
            number = int.from_bytes(blake3(b"link\0" + node.target).digest(8), "little")
        else:
            above = ROOT_ID if parent == ROOT_ID else self._inode(parent).number
            place = b"directory\0%d\0" % above + name
            number = int.from_bytes(blake3(place).digest(8), "little")
        return number >> 1 or 2

    def _inode(self, node: int) -> _Inode:
        inode = self._inodes.get(node)
        if inode is None:
            raise OSError(errno.ESTALE, "no such inode")
        return inode

    def _directory(self, node: int) -> Directory:
        above = self._inode(node).node
        if not isinstance(above, DirectoryNode):
            raise OSError(errno.ENOTDIR, "not a directory")
        digest = above.digest
        found = self._directories.get(digest)
        if found is not None:
            self._directories.move_to_end(digest)
            return found
        return self._keep(
            self._asked(
                digest, f"directory {digest}", lambda: require_directory(self._service, digest)
            )
        )

    def _keep(self, directory: Directory) -> Directory:
        self._directories[directory.digest] = directory
        self._entries += 1 + len(directory.entries)
        while self._entries > _KEPT_ENTRIES and len(self._directories) > 1:
            _, dropped = self._directories.popitem(last=False)
            self._entries -= 1 + len(dropped.entries)
        return directory

    def _fetch(self, inode: _Inode, file: FileNode) -> None:
        known = inode.verified

        def work() -> None:
            what = f"blob {file.digest}"
            self._guarded(what, lambda: self._contents.fetch(file[:2], known=known))
            inode.verified = True

        if not (self._local and (known or file.size <= _AT_ONCE)):
            raise Slow(file.digest, work)
        work()

    def _guarded(self, what: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except _FAILURES as error:
            self._log(f"cannot show {what}: {error}")
            raise OSError(errno.EIO, what) from error


def _mode(node: Node) -> int:
    if isinstance(node, FileNode):
        return _EXECUTABLE if node.executable else _FILE
    return _LINK if isinstance(node, SymlinkNode) else _DIRECTORY
