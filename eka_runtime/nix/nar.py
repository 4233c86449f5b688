"""Nix archives: the canonical serialisation of a tree whose SHA-256 names it in a store.

    nar   = "nix-archive-1" node
    node  = "(" "type" "regular" ["executable" ""] "contents" data ")"
          | "(" "type" "symlink" "target" target ")"
          | "(" "type" "directory" entry* ")"
    entry = "entry" "(" "name" name "node" node ")"          names in strictly ascending byte order

Everything in quotes and every name, target and data is a token of `tokens.py`.

The parser accepts exactly what the writer writes, so `parse_nar(read, NarWriter(write))` is the
identity on every input it does not refuse. That is needed, not pedantry: a store that keeps trees
and renders NARs again could never reproduce the hash of another spelling. It is what current Nix
demands too; Nix before 2.24 also took fields out of order and files without `contents`.

Out of scope: files and directories on disk, hashing of trees (castore), compression.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from eka_runtime.errors import NarError
from eka_runtime.nix.tokens import DIRECT_SIZE, NarReader, Read, Write, padding, quote, token, u64

__all__ = [
    "DIRECTORY_OPEN",
    "ENTRY_CLOSE",
    "MAGIC",
    "MAX_DEPTH",
    "MAX_NAME",
    "MAX_TARGET",
    "NODE_CLOSE",
    "HashingWriter",
    "NarReader",
    "NarSink",
    "NarWriter",
    "Read",
    "Write",
    "entry_open",
    "entry_overhead",
    "file_header",
    "file_overhead",
    "padding",
    "parse_nar",
    "symlink",
]

MAX_NAME = 255  # NAME_MAX
MAX_TARGET = 4095  # PATH_MAX without the NUL
# A path of one-byte names reaches PATH_MAX half as deep; Nix itself cannot dump deeper trees.
MAX_DEPTH = 4096


def _tokens(text: str) -> bytes:
    return b"".join(token(word.encode()) for word in text.split())


MAGIC = _tokens("nix-archive-1")
DIRECTORY_OPEN = _tokens("( type directory")
NODE_CLOSE = _tokens(")")
ENTRY_CLOSE = NODE_CLOSE

_FILE = _tokens("( type regular contents")
_EXECUTABLE = _tokens("( type regular executable") + token(b"") + _tokens("contents")
_SYMLINK = _tokens("( type symlink target")
_ENTRY = _tokens("entry ( name")
_NODE = _tokens("node")
_LEAF_CLOSE = NODE_CLOSE + ENTRY_CLOSE


def file_header(executable: bool, size: int) -> bytes:
    """What precedes the contents; `padding(size)` and NODE_CLOSE follow them."""
    return (_EXECUTABLE if executable else _FILE) + u64(size)


def symlink(target: bytes) -> bytes:
    """A whole symlink node."""
    return _SYMLINK + token(target) + NODE_CLOSE


def entry_open(name: bytes) -> bytes:
    """What precedes the node of a directory entry; ENTRY_CLOSE follows it."""
    return _ENTRY + token(name) + _NODE


def file_overhead(executable: bool, size: int) -> int:
    """Bytes a file node has beside its contents."""
    return len(_EXECUTABLE if executable else _FILE) + 8 + -size % 8 + len(NODE_CLOSE)


def entry_overhead(name: bytes) -> int:
    """Bytes a directory entry has beside its node."""
    return len(_ENTRY) + len(token(name)) + len(_NODE) + len(ENTRY_CLOSE)


class NarSink(Protocol):
    """Receives a tree in NAR order. The root's name is b""; others are valid and ascend."""

    def directory(self, name: bytes) -> None: ...

    def end_directory(self) -> None: ...

    def symlink(self, name: bytes, target: bytes) -> None: ...

    def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
        """`read(n)` returns 1..n bytes of the contents, b"" at their end, during this call only.

        Whatever is left unread is skipped by the parser.
        """


def _name_problem(name: bytes) -> str | None:
    if not name or len(name) > MAX_NAME:
        return f"a name has {len(name)} bytes, 1 to {MAX_NAME} are allowed"
    if b"/" in name or b"\0" in name or name == b"." or name == b"..":
        return f"{quote(name)} is not a valid name"
    return None


def _target_problem(target: bytes) -> str | None:
    if not target or len(target) > MAX_TARGET:
        return f"a symlink target has {len(target)} bytes, 1 to {MAX_TARGET} are allowed"
    return "a symlink target contains a NUL byte" if b"\0" in target else None


_ROOT_HEADS = (_FILE, _EXECUTABLE, DIRECTORY_OPEN, _SYMLINK)
_ENTRY_HEADS = tuple(_NODE + head for head in _ROOT_HEADS)
# What may follow in a directory, by the number of ")" due first: none when it was just opened,
# one after a directory whose own is read already, two after a file or symlink.
_NEXT = tuple((NODE_CLOSE * due + _ENTRY, NODE_CLOSE * due + NODE_CLOSE) for due in range(3))


def parse_nar(source: Read | NarReader, sink: NarSink) -> None:
    """Consumes exactly one NAR and tells `sink` about it; NarError names the byte offset.

    Memory is bounded: contents are streamed, nothing is kept but the path of open directories.
    A plain `read` may be read past the NAR; pass a NarReader where something follows.
    """
    reader = source if isinstance(source, NarReader) else NarReader(source)
    reader.match((MAGIC,))
    names: list[bytes] = []  # the last name seen in each open directory
    name = b""
    while True:
        kind = reader.match(_ENTRY_HEADS if names else _ROOT_HEADS)
        due = 2
        if kind <= 1:
            size = reader.open_contents()
            sink.file(name, kind == 1, size, reader.contents)
            reader.close_contents(size)
        elif kind == 3:
            sink.symlink(name, _read_target(reader))
        else:
            if len(names) == MAX_DEPTH:
                raise reader.error(f"directories are nested more than {MAX_DEPTH} deep")
            sink.directory(name)
            names.append(b"")
            due = 0
        if not names:
            reader.match((NODE_CLOSE,))
            return
        while reader.match(_NEXT[due]):
            sink.end_directory()
            names.pop()
            if not names:
                return
            due = 1
        names[-1] = name = _read_name(reader, names[-1])


def _read_target(reader: NarReader) -> bytes:
    start = reader.offset
    target = reader.string(MAX_TARGET, "a symlink target")
    if problem := _target_problem(target):
        raise reader.error(problem, start)
    return target


def _read_name(reader: NarReader, previous: bytes) -> bytes:
    start = reader.offset
    name = reader.string(MAX_NAME, "a name")
    if problem := _name_problem(name):
        raise reader.error(problem, start)
    if name <= previous:
        raise reader.error(f"{quote(name)} does not sort after {quote(previous)}", start)
    return name


class NarWriter:
    """The sink that writes a NAR; all of it has been written when the root's node ends.

    Small pieces are joined, so `write` sees few and large ones. NarError when what it is told is
    no valid tree, or when contents do not have the announced size.
    """

    __slots__ = ("_begun", "_names", "_pending", "_pending_size", "_write")

    _FLUSH = 1 << 17

    def __init__(self, write: Write) -> None:
        self._write = write
        self._names: list[bytes] = []
        self._pending = [MAGIC]
        self._pending_size = len(MAGIC)
        self._begun = False

    def directory(self, name: bytes) -> None:
        self._put(self._open(name) + DIRECTORY_OPEN)
        self._names.append(b"")

    def end_directory(self) -> None:
        if not self._names:
            raise NarError("no directory is open")
        self._names.pop()
        self._close()

    def symlink(self, name: bytes, target: bytes) -> None:
        if problem := _target_problem(target):
            raise NarError(problem)
        self._put(self._open(name) + _SYMLINK + token(target))
        self._close()

    def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
        self._put(self._open(name) + file_header(executable, size))
        left = size
        while left:
            data = read(min(left, DIRECT_SIZE))
            if not 0 < len(data) <= left:
                raise NarError(f"contents of {quote(name)} do not have the {size} bytes announced")
            left -= len(data)
            self._put(data)
        if size & 7:
            self._put(padding(size))
        self._close()

    def _open(self, name: bytes) -> bytes:
        if not self._names:
            if name or self._begun:
                raise NarError("a NAR has one root, which has no name")
            self._begun = True
            return b""
        if problem := _name_problem(name):
            raise NarError(problem)
        if name <= self._names[-1]:
            raise NarError(f"{quote(name)} does not sort after {quote(self._names[-1])}")
        self._names[-1] = name
        return entry_open(name)

    def _close(self) -> None:
        self._put(_LEAF_CLOSE if self._names else NODE_CLOSE)
        if not self._names:
            self._flush()

    def _put(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= self._FLUSH:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending, self._pending_size = self._pending, [], 0
        # Joining would copy large contents, which come alone or last.
        if len(pending[-1]) >= self._FLUSH:
            large = pending.pop()
            if pending:
                self._write(b"".join(pending))
            self._write(large)
        else:
            self._write(b"".join(pending))


class HashingWriter:
    """SHA-256 and size of what passes through `write`, on its way to another `write` if given."""

    __slots__ = ("_hash", "_write", "size")

    def __init__(self, write: Write | None = None) -> None:
        self._hash = hashlib.sha256()
        self._write = write
        self.size = 0

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)
        if self._write is not None:
            self._write(data)

    def digest(self) -> bytes:
        return self._hash.digest()
