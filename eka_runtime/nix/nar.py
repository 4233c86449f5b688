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

from typing import Protocol, runtime_checkable

from eka_runtime.errors import NarError
from eka_runtime.nix.tokens import (
    PADDING,
    U64,
    NarReader,
    Read,
    Write,
    padding,
    quote,
    token,
    u64,
)

__all__ = [
    "DIRECTORY_OPEN",
    "ENTRY_CLOSE",
    "FILE_DATA_MAX",
    "MAGIC",
    "MAX_DEPTH",
    "MAX_NAME",
    "MAX_TARGET",
    "NODE_CLOSE",
    "FileDataSink",
    "HashingWriter",
    "NarReader",
    "NarSink",
    "NarWriter",
    "Read",
    "Write",
    "entry_open",
    "entry_overhead",
    "file_close",
    "file_header",
    "file_open",
    "file_open_size",
    "file_overhead",
    "padding",
    "parse_nar",
    "symlink",
]

MAX_NAME = 255  # NAME_MAX
MAX_TARGET = 4095  # PATH_MAX without the NUL
# A path of one-byte names reaches PATH_MAX half as deep; Nix itself cannot dump deeper trees.
MAX_DEPTH = 4096
# What sinks may get in one piece; a reader's buffer holds it.
FILE_DATA_MAX = 1 << 17


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


def file_open(name: bytes, executable: bool, size: int) -> bytes:
    """What precedes the contents of a directory entry that is a file; `file_close` follows them."""
    length = len(name)
    head = (_EXECUTABLE_AFTER if executable else _FILE_AFTER)[length & 7]
    return b"".join((_ENTRY, U64.pack(length), name, head, U64.pack(size)))


def file_open_size(name: bytes, executable: bool) -> int:
    """Bytes of `file_open`."""
    length = len(name)
    return length + _FILE_OPEN_SIZES[executable][length & 7]


def file_close(size: int) -> bytes:
    return _LEAF_CLOSE_AFTER[size & 7]


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


@runtime_checkable
class FileDataSink(NarSink, Protocol):
    """A sink that wants small files whole, which saves it a call and the parser some."""

    def file_data(self, name: bytes, executable: bool, data: bytes) -> None:
        """In place of `file`, for contents of at most FILE_DATA_MAX bytes."""


_SLASH = ord("/")
_DOTS = (b".", b"..")


def _name_problem(name: bytes) -> str | None:
    if not name or len(name) > MAX_NAME:
        return f"a name has {len(name)} bytes, 1 to {MAX_NAME} are allowed"
    if _SLASH in name or 0 in name or name in _DOTS:
        return f"{quote(name)} is not a valid name"
    return None


def _target_problem(target: bytes) -> str | None:
    if not target or len(target) > MAX_TARGET:
        return f"a symlink target has {len(target)} bytes, 1 to {MAX_TARGET} are allowed"
    return "a symlink target contains a NUL byte" if 0 in target else None


_ROOT_HEADS = (_FILE, _EXECUTABLE, DIRECTORY_OPEN, _SYMLINK)
_ENTRY_HEADS = tuple(_NODE + head for head in _ROOT_HEADS)
# What may follow in a directory, by the number of ")" due first: none when it was just opened,
# one after a directory whose own is read already, two after a file or symlink.
_NEXT = tuple((NODE_CLOSE * due + _ENTRY, NODE_CLOSE * due + NODE_CLOSE) for due in range(3))
# Of an entry that is a file, beside name and contents; more or less.
_LEAF_OVERHEAD = len(_ENTRY) + 8 + len(_NODE) + len(_EXECUTABLE) + 8 + len(_LEAF_CLOSE)
# In place of that number: the next thing is a name; the NAR is complete.
_AT_NAME, _COMPLETE = 3, 4


def _after_text(run: bytes) -> tuple[bytes, ...]:
    """The run with the zeros that precede it, by the length of the text before modulo 8."""
    return tuple(zeros + run for zeros in PADDING)


_FILE_AFTER, _EXECUTABLE_AFTER, _DIRECTORY_AFTER, _SYMLINK_AFTER = map(_after_text, _ENTRY_HEADS)
_ENTRY_AFTER, _END_AFTER = map(_after_text, _NEXT[2])
_NODE_AFTER, _NODE_CLOSE_AFTER, _LEAF_CLOSE_AFTER = map(
    _after_text, (_NODE, NODE_CLOSE, _LEAF_CLOSE)
)
# Beside the name, by its length modulo 8.
_FILE_OPEN_SIZES = tuple(
    tuple(len(_ENTRY) + 8 + len(head) + 8 for head in heads)
    for heads in (_FILE_AFTER, _EXECUTABLE_AFTER)
)


def parse_nar(source: Read | NarReader, sink: NarSink) -> None:
    """Consumes exactly one NAR and tells `sink` about it; NarError names the byte offset.

    Memory is bounded: contents are streamed, nothing is kept but the path of open directories.
    A plain `read` may be read past the NAR; pass a NarReader where something follows.
    """
    reader = source if isinstance(source, NarReader) else NarReader(source)
    _Parser(reader, sink).parse()


class _Parser:
    """Two ways through the same grammar: token by token, and entry by entry within the buffer.

    The first reads what is missing, and says what is wrong and where. The second takes entries
    that are there whole and valid, which most are, and leaves any other one to the first.
    """

    __slots__ = ("_names", "_reader", "_sink", "_take")

    def __init__(self, reader: NarReader, sink: NarSink) -> None:
        self._reader = reader
        self._sink = sink
        self._take = sink.file_data if isinstance(sink, FileDataSink) else None
        self._names: list[bytes] = []  # the last name seen in each open directory

    def parse(self) -> None:
        self._reader.match((MAGIC,))
        due = self._node(b"")
        if not self._names:
            self._reader.match((NODE_CLOSE,))
            return
        while due != _COMPLETE:
            if due != _AT_NAME:
                due = self._next(due)
            if due == _AT_NAME:
                due = self._buffered_entries()
            if due == _AT_NAME:
                due = self._node(self._name())

    def _node(self, name: bytes) -> int:
        """A node up to its own ")", or only its beginning if it is a directory; returns due."""
        reader = self._reader
        kind = reader.match(_ENTRY_HEADS if self._names else _ROOT_HEADS)
        if kind <= 1:
            size = reader.open_contents()
            if self._take and size <= FILE_DATA_MAX:
                self._take(name, kind == 1, reader.contents(size))
            else:
                self._sink.file(name, kind == 1, size, reader.contents)
            reader.close_contents(size)
        elif kind == 3:
            self._sink.symlink(name, self._target())
        else:
            if len(self._names) == MAX_DEPTH:
                raise reader.error(f"directories are nested more than {MAX_DEPTH} deep")
            self._sink.directory(name)
            self._names.append(b"")
            return 0
        return 2

    def _next(self, due: int) -> int:
        if not self._reader.match(_NEXT[due]):
            return _AT_NAME
        self._sink.end_directory()
        self._names.pop()
        return 1 if self._names else _COMPLETE

    def _target(self) -> bytes:
        start = self._reader.offset
        target = self._reader.string(MAX_TARGET, "a symlink target")
        if problem := _target_problem(target):
            raise self._reader.error(problem, start)
        return target

    def _name(self) -> bytes:
        start, previous = self._reader.offset, self._names[-1]
        name = self._reader.string(MAX_NAME, "a name")
        if problem := _name_problem(name):
            raise self._reader.error(problem, start)
        if name <= previous:
            problem = f"{quote(name)} does not sort after {quote(previous)}"
            raise self._reader.error(problem, start)
        self._names[-1] = name
        return name

    def _buffered_entries(self) -> int:
        """Long and flat, because every small file of every import passes through it."""
        reader, sink, take, names = self._reader, self._sink, self._take, self._names
        buffer, position = reader.buffered()
        startswith, unpack, end = buffer.startswith, U64.unpack_from, len(buffer)
        previous, due = names[-1], _AT_NAME
        # `position` stays before a name until the whole entry is known to be right.
        while position + 8 <= end:
            size = unpack(buffer, position)[0]
            after = position + 8 + size
            name = buffer[position + 8 : after]
            # `47 in name` takes a sixth of the time of `b"/" in name`.
            if size > MAX_NAME or name <= previous or _SLASH in name or 0 in name or name in _DOTS:
                break
            zeros = size & 7
            if startswith(run := _FILE_AFTER[zeros], after):
                kind = 0
            elif startswith(run := _EXECUTABLE_AFTER[zeros], after):
                kind = 1
            elif startswith(run := _SYMLINK_AFTER[zeros], after):
                kind = 3
            elif startswith(run := _DIRECTORY_AFTER[zeros], after) and len(names) < MAX_DEPTH:
                names[-1] = name
                sink.directory(name)
                names.append(b"")
                position, due = self._buffered_ends(buffer, after + len(run), 0)
                if due != _AT_NAME:
                    break
                previous = names[-1]
                continue
            else:
                break
            begin = after + len(run) + 8
            if begin > end:
                break
            size = unpack(buffer, begin - 8)[0]
            if size > FILE_DATA_MAX:
                break
            stop = begin + size
            zeros = size & 7
            more = startswith(run := _ENTRY_AFTER[zeros], stop)
            if not more and not startswith(_END_AFTER[zeros], stop):
                break
            if kind == 3:
                target = buffer[begin:stop]
                if _target_problem(target):
                    break
                sink.symlink(name, target)
            elif take:
                take(name, kind == 1, buffer[begin:stop])
            else:
                reader.consume(begin, size)
                sink.file(name, kind == 1, size, reader.contents)
            if more:
                position = stop + len(run)
                previous = name
            else:
                position, due = self._buffered_ends(buffer, stop + len(PADDING[zeros]), 2)
                if due != _AT_NAME:
                    break
                previous = names[-1]
        if due == _AT_NAME:
            names[-1] = previous
        reader.consume(position)
        return due

    def _buffered_ends(self, buffer: bytes, position: int, due: int) -> tuple[int, int]:
        """Ends directories as far as the buffer goes; returns where that is, and due."""
        while not buffer.startswith(_NEXT[due][0], position):
            if not buffer.startswith(_NEXT[due][1], position):
                return position, due
            position += len(_NEXT[due][1])
            self._sink.end_directory()
            self._names.pop()
            if not self._names:
                return position, _COMPLETE
            due = 1
        return position + len(_NEXT[due][0]), _AT_NAME


class NarWriter:
    """The sink that writes a NAR; all of it has been written when the root's node ends.

    Small pieces are joined, so `write` sees few and large ones. NarError when what it is told is
    no valid tree, or when contents do not have the announced size.
    """

    __slots__ = ("_begun", "_names", "_pending", "_pending_size", "_write")

    _FLUSH = 1 << 17
    # More, and the memory for each comes from the kernel, and goes back to it.
    _PIECE = 1 << 18

    def __init__(self, write: Write) -> None:
        self._write = write
        self._names: list[bytes] = []
        self._pending = [MAGIC]
        self._pending_size = len(MAGIC)
        self._begun = False

    def directory(self, name: bytes) -> None:
        self._open(name, DIRECTORY_OPEN)
        self._names.append(b"")

    def end_directory(self) -> None:
        if not self._names:
            raise NarError("no directory is open")
        self._names.pop()
        self._close()

    def symlink(self, name: bytes, target: bytes) -> None:
        if problem := _target_problem(target):
            raise NarError(problem)
        self._open(name, _SYMLINK + u64(len(target)) + target)
        self._close(len(target))

    def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
        self._open(name, (_EXECUTABLE if executable else _FILE) + u64(size))
        left = size
        while left:
            data = read(min(left, self._PIECE))
            if not 0 < len(data) <= left:
                raise NarError(f"contents of {quote(name)} do not have the {size} bytes announced")
            left -= len(data)
            self._put(data)
        self._close(size)

    def file_data(self, name: bytes, executable: bool, data: bytes) -> None:
        """A file of any size whose contents are at hand."""
        names, size = self._names, len(data)
        length = len(name)
        valid = 0 < length <= MAX_NAME and _SLASH not in name and 0 not in name
        if size < self._FLUSH and names and name > names[-1] and valid and name not in _DOTS:
            # The rest does the same in three steps, which would be felt in exports of small files.
            names[-1] = name
            head = (_EXECUTABLE_AFTER if executable else _FILE_AFTER)[length & 7]
            close = _LEAF_CLOSE_AFTER[size & 7]
            self._pending += (_ENTRY, U64.pack(length), name, head, U64.pack(size), data, close)
            self._pending_size += _LEAF_OVERHEAD + length + size
            if self._pending_size >= self._FLUSH:
                self._flush()
            return
        self._open(name, (_EXECUTABLE if executable else _FILE) + u64(len(data)))
        self._put(data)
        self._close(len(data))

    def _open(self, name: bytes, head: bytes) -> None:
        """Begins a node; `head` is what precedes its first text or entry."""
        if not self._names:
            if name or self._begun:
                raise NarError("a NAR has one root, which has no name")
            self._begun = True
            self._put(head)
            return
        if problem := _name_problem(name):
            raise NarError(problem)
        if name <= self._names[-1]:
            raise NarError(f"{quote(name)} does not sort after {quote(self._names[-1])}")
        self._names[-1] = name
        size = len(name)
        self._put(b"".join((_ENTRY, U64.pack(size), name, _NODE_AFTER[size & 7], head)))

    def _close(self, size: int = 0) -> None:
        """Ends a node after a text of `size` bytes, or after entries."""
        self._put((_LEAF_CLOSE_AFTER if self._names else _NODE_CLOSE_AFTER)[size & 7])
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
        # Here, since OpenSSL takes longer to be loaded than many a command takes.
        import hashlib

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
