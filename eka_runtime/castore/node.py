"""Nodes and directories: the castore's data model and its canonical protobuf encoding.

The messages are those of `snix.castore.v1` (field numbers in parentheses):

    Directory       directories (1)*, files (2)*, symlinks (3)*
    DirectoryEntry  name (1), digest (2), size (3)
    FileEntry       name (1), digest (2), size (3), executable (4)
    SymlinkEntry    name (1), target (2)
    Entry           one of directory (1), file (2), symlink (3)

The digest of a directory is the BLAKE3 of its encoding, so there is one encoding: fields in
ascending order, defaults omitted, shortest varints, each list sorted by name. Encoder and decoder
are written by hand because every directory of every import passes through them.

The size of a directory counts as snix computes it, not as its documentation says: two for every
entry, plus the sizes of the directories among them. It is part of the parent's encoding.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

from eka_runtime.castore.digest import DIGEST_SIZE, B3Digest
from eka_runtime.castore.protobuf import ProtobufError, fields, shortest, varint
from eka_runtime.errors import CastoreError

MAX_NAME = 255
MAX_TARGET = 4095
MAX_SIZE = 2**64 - 1
SIZE_PER_ENTRY = 2


class FileNode(NamedTuple):
    digest: B3Digest
    size: int
    executable: bool = False


class DirectoryNode(NamedTuple):
    """`size` is that of the directory it names: see the module docstring."""

    digest: B3Digest
    size: int


class SymlinkNode(NamedTuple):
    target: bytes


Node = FileNode | DirectoryNode | SymlinkNode

_DIRECTORY, _FILE, _SYMLINK = b"\x0a", b"\x12", b"\x1a"
_DIGEST = b"\x12" + bytes([DIGEST_SIZE])
_EXECUTABLE = b"\x20\x01"

_DIRECTORY_TAG, _FILE_TAG, _SYMLINK_TAG = _DIRECTORY[0], _FILE[0], _SYMLINK[0]
_NAME_TAG, _TARGET_TAG, _SIZE_TAG = 0x0A, 0x12, 0x18
_ONE_BYTE = 127
_TWO_BYTES = (1 << 14) - 1
_SHORT = 80  # a name with which the length of an entry takes one byte
_SLASH = ord("/")
_DOTS = (b".", b"..")
_name_of = itemgetter(0)
# Half the time of calling the classes: for what is known to be right.
_new_tuple, _new_bytes = tuple.__new__, bytes.__new__
_AFTER_DIGEST = len(_DIGEST) + DIGEST_SIZE

# Which fields of each message are numbers: size, executable.
_NUMBERS = {1: (3,), 2: (3, 4), 3: ()}


def name_problem(name: bytes) -> str | None:
    """The rule that the name of an entry violates, if any."""
    if not 1 <= len(name) <= MAX_NAME:
        return f"name has {len(name)} bytes, not 1 to {MAX_NAME}"
    # Numbers, because `b"/" in name` takes six times as long as `47 in name`.
    if _SLASH in name or 0 in name or name in _DOTS:
        return f"invalid name: {name!r}"
    return None


def _node_problem(node: Node) -> str | None:
    if isinstance(node, SymlinkNode):
        if not 1 <= len(node.target) <= MAX_TARGET:
            return f"symlink target has {len(node.target)} bytes, not 1 to {MAX_TARGET}"
        return "symlink target contains NUL" if 0 in node.target else None
    if not 0 <= node.size <= MAX_SIZE:
        return f"size {node.size} is not a 64-bit number"
    return None


def _entry_problem(name: bytes, node: Node, last: bytes) -> str | None:
    if problem := name_problem(name) or _node_problem(node):
        return problem
    if name == last:
        return f"name occurs twice: {name!r}"
    return f"name is out of order: {name!r}" if name < last else None


def _encode(name: bytes, node: Node) -> bytes:
    """An entry with its tag; good as an element of a Directory and as an Entry alike."""
    length = len(name)
    if type(node) is FileNode and 0 < length <= _SHORT and 0 < node.size <= _TWO_BYTES:
        # What the rest makes of most files, at half the time.
        size = node.size
        digits = (size,) if size <= _ONE_BYTE else (size & 127 | 128, size >> 7)
        sizes = bytes((_SIZE_TAG, *digits))
        if node.executable:
            sizes += _EXECUTABLE
        head = bytes((_FILE_TAG, 2 + length + _AFTER_DIGEST + len(sizes), _NAME_TAG, length))
        return b"".join((head, name, _DIGEST, node.digest, sizes))
    if isinstance(node, SymlinkNode):
        tag, value = _SYMLINK, b"\x12" + varint(len(node.target)) + node.target
    else:
        tag, value = _DIRECTORY, _DIGEST + node.digest
        if node.size:
            value += b"\x18" + varint(node.size)
        if isinstance(node, FileNode):
            tag = _FILE
            if node.executable:
                value += _EXECUTABLE
    head = b"\x0a" + varint(len(name)) if name else b""
    return b"".join((tag, varint(len(head) + len(name) + len(value)), head, name, value))


def encode_entry(node: Node, name: bytes = b"") -> bytes:
    """An `Entry`; without a name where a lone node is meant. Raises CastoreError if invalid."""
    problem = _node_problem(node) or (name_problem(name) if name else None)
    if problem:
        raise CastoreError(f"invalid entry: {problem}")
    return _encode(name, node)


def decode_entry(data: bytes) -> tuple[bytes, Node]:
    """Name (b"" if it has none) and node of a canonical `Entry`; CastoreError names the rule."""
    try:
        found = [_decode(tag, body) for tag, body in fields(data)]
    except ProtobufError as error:
        raise CastoreError(f"invalid entry: {error}") from error
    if len(found) != 1:
        raise CastoreError(f"invalid entry: {len(found)} nodes instead of one")
    [(name, node)] = found
    if encode_entry(node, name) != data:
        raise CastoreError("invalid entry: encoding is not canonical")
    return name, node


def _decode(tag: int, body: int | bytes) -> tuple[bytes, Node]:
    if not 1 <= tag <= 3 or isinstance(body, int):
        raise ProtobufError(f"unknown field {tag}")
    texts, numbers = [b"", b"", b""], [0, 0, 0, 0, 0]
    for number, value in fields(body):
        if isinstance(value, bytes):
            if number > 2:
                raise ProtobufError(f"unknown field {number} in entry")
            texts[number] = value
        else:
            if number not in _NUMBERS[tag]:
                raise ProtobufError(f"unknown field {number} in entry")
            numbers[number] = value
    _, name, raw = texts
    if tag == 3:
        return name, SymlinkNode(raw)
    if len(raw) != DIGEST_SIZE:
        raise ProtobufError(f"digest has {len(raw)} bytes, not {DIGEST_SIZE}")
    if tag == 1:
        return name, DirectoryNode(B3Digest(raw), numbers[3])
    return name, FileNode(B3Digest(raw), numbers[3], bool(numbers[4]))


def _any_entries(data: bytes) -> list[tuple[bytes, Node]]:
    """Of a Directory in any encoding whose lists ascend."""
    lists: tuple[list[tuple[bytes, Node]], ...] = ([], [], [])
    try:
        for tag, body in fields(data):
            lists[(tag - 1) % 3].append(_decode(tag, body))
    except ProtobufError as error:
        raise CastoreError(f"invalid directory: {error}") from error
    for one in lists:
        if any(one[i][0] >= one[i + 1][0] for i in range(len(one) - 1)):
            raise CastoreError("invalid directory: names of a list do not ascend")
    return [entry for one in lists for entry in one]


def _canonical_entries(data: bytes) -> list[tuple[bytes, Node]] | None:
    """Of a Directory in its one encoding; None for any other, which need not be told apart.

    A third of the time of decoding anything and encoding it again. Names and targets are checked
    by Directory; here every byte that precedes them has to be the only one possible.
    """
    entries: list[tuple[bytes, Node]] = []
    position, list_tag, last = 0, 0, b""
    node: Node
    try:
        # Long and flat, because every entry of every directory that is read passes through it.
        while position < len(data):
            tag, size, start = data[position], data[position + 1], position + 2
            if size > _ONE_BYTE:
                size, start = shortest(data, position + 1)
            position = start + size
            length, begin = data[start + 1], start + 2
            if length > _ONE_BYTE:
                length, begin = shortest(data, start + 1)
            at = begin + length
            name = data[begin:at]
            if tag != list_tag:
                last = b""
            if data[start] != _NAME_TAG or name <= last or tag < list_tag:
                return None
            if tag == _SYMLINK_TAG:
                node, at = _canonical_symlink(data, at)
            elif data.startswith(_DIGEST, at):
                at += _AFTER_DIGEST
                digest = _new_bytes(B3Digest, data[at - DIGEST_SIZE : at])
                below = 0
                if at < position and data[at] == _SIZE_TAG:
                    below, at = data[at + 1], at + 2
                    # Two bytes are what most files need, and a call for each would be felt.
                    if below > _ONE_BYTE:
                        more = data[at]
                        if 0 < more <= _ONE_BYTE:
                            below, at = below - 128 + (more << 7), at + 1
                        else:
                            below, at = shortest(data, at - 1)
                    if not below:
                        return None
                if tag == _FILE_TAG:
                    executable = at < position and data.startswith(_EXECUTABLE, at)
                    at += len(_EXECUTABLE) if executable else 0
                    node = _new_tuple(FileNode, (digest, below, executable))
                elif tag == _DIRECTORY_TAG:
                    node = DirectoryNode(digest, below)
                else:
                    return None
            else:
                return None
            if at != position:
                return None
            entries.append((name, node))
            list_tag, last = tag, name
    except (IndexError, ProtobufError):
        return None
    return entries if position == len(data) else None


def _canonical_symlink(data: bytes, position: int) -> tuple[SymlinkNode, int]:
    """The node after the name of an entry, and the position behind it."""
    if data[position] != _TARGET_TAG:
        raise ProtobufError("no target")
    size, begin = shortest(data, position + 1)
    return SymlinkNode(data[begin : begin + size]), begin + size


class Directory:
    """An immutable directory, valid by construction: `entries` ascend strictly by name."""

    def __init__(self, entries: tuple[tuple[bytes, Node], ...]) -> None:
        """Takes `entries` in order; use `build` for any order. Raises CastoreError."""
        last, below = b"", 0
        for name, node in entries:
            if isinstance(node, FileNode):
                valid = 0 <= node.size <= MAX_SIZE
            elif isinstance(node, DirectoryNode):
                valid = 0 <= node.size <= MAX_SIZE
                below += node.size
            else:
                valid = 0 < len(node.target) <= MAX_TARGET and 0 not in node.target
            # What is valid passes without a call, since every entry of every import comes here.
            valid = valid and name > last and len(name) <= MAX_NAME
            if not valid or _SLASH in name or 0 in name or name in _DOTS:
                raise CastoreError(f"invalid directory: {_entry_problem(name, node, last)}")
            last = name
        self.entries = entries
        self.size = SIZE_PER_ENTRY * len(entries) + below
        if self.size > MAX_SIZE:
            raise CastoreError("invalid directory: sum of sizes overflows 64 bits")

    @classmethod
    def build(cls, entries: Iterable[tuple[bytes, Node]]) -> Directory:
        return cls(tuple(sorted(entries, key=_name_of)))

    @classmethod
    def decode(cls, data: bytes) -> Directory:
        """The directory with exactly this encoding; CastoreError names the rule it violates."""
        entries = _canonical_entries(data)
        directory = cls.build(_any_entries(data) if entries is None else entries)
        if entries is None and directory.encode() != data:
            raise CastoreError("invalid directory: encoding is not canonical")
        directory.__dict__["_encoding"] = data
        return directory

    def encode(self) -> bytes:
        return self._encoding

    @cached_property
    def _encoding(self) -> bytes:
        parts: dict[type, list[bytes]] = {DirectoryNode: [], FileNode: [], SymlinkNode: []}
        for name, node in self.entries:
            parts[type(node)].append(_encode(name, node))
        return b"".join(part for one in parts.values() for part in one)

    @cached_property
    def digest(self) -> B3Digest:
        return B3Digest.of(self._encoding)

    @property
    def node(self) -> DirectoryNode:
        return DirectoryNode(self.digest, self.size)

    def get(self, name: bytes) -> Node | None:
        index = bisect_left(self.entries, name, key=_name_of)
        if index < len(self.entries) and self.entries[index][0] == name:
            return self.entries[index][1]
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Directory) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<Directory {self.digest}: {len(self.entries)} entries>"
