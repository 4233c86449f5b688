"""Input that is no canonical NAR: refused with its offset, and never anything but NarError."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.errors import NarError
from eka_runtime.nix import nar
from eka_runtime.nix.nar import MAX_DEPTH, NarReader, NarWriter, Read, parse_nar
from eka_runtime.nix.tokens import DIRECT_SIZE, token, u64
from tests.unit.nix.trees import (
    COMPLICATED,
    File,
    Link,
    Tree,
    TreeSink,
    directory,
    from_nar,
    in_pieces,
    mutations,
    to_nar,
    trees,
    words,
)

FILE = nar.file_header(False, 0) + nar.NODE_CLOSE
LINK = nar.symlink(b"t")


def root(node: bytes) -> bytes:
    return nar.MAGIC + node


def entries(*named: tuple[bytes, bytes]) -> bytes:
    inside = [nar.entry_open(name) + node + nar.ENTRY_CLOSE for name, node in named]
    return root(nar.DIRECTORY_OPEN + b"".join(inside) + nar.NODE_CLOSE)


TOP = len(nar.MAGIC)  # offset of the root node
TYPE = TOP + len(words("(", "type"))
NAME = TOP + len(nar.DIRECTORY_OPEN + words("entry", "(", "name"))  # offset of a first name
NODE = NAME + len(token(b"a")) + len(words("node"))
SECOND = NODE + len(LINK) + len(nar.ENTRY_CLOSE) + len(words("entry", "(", "name"))

REFUSED = {
    "empty": (b"", 0, 'the input ends where "nix-archive-1" is expected'),
    "text": (b"hello, world", 0, 'a string of 8583909746840200552 bytes where "nix-archive-1"'),
    "short text": (b"hello", 0, "found bytes 0x68656c6c6f where"),
    "other magic": (words("nix-archive-2"), 0, 'found "nix-archive-2" where "nix-archive-1"'),
    "magic only": (nar.MAGIC, TOP, 'the input ends where "(" is expected'),
    "no parenthesis": (root(words("type")), TOP, 'found "type" where "(" is expected'),
    "no type": (root(words("(", ")")), TOP + 16, 'found ")" where "type" is expected'),
    "unknown type": (
        root(words("(", "type", "fifo")),
        TYPE,
        'found "fifo" where "directory" or "regular" or "symlink" is expected',
    ),
    "two types": (
        root(words("(", "type", "regular", "type")),
        TYPE + 16,
        'found "type" where "contents" or "executable" is expected',
    ),
    "no contents": (
        root(words("(", "type", "regular", ")")),
        TYPE + 16,
        'found ")" where "contents" or "executable" is expected',
    ),
    "executable without contents": (
        root(words("(", "type", "regular", "executable", "", ")")),
        TYPE + 16 + 24 + 8,
        'found ")" where "contents" is expected',
    ),
    "executable with a value": (
        root(words("(", "type", "regular", "executable", "yes", "contents", "", ")")),
        TYPE + 16 + 24,
        'found "yes" where "" is expected',
    ),
    "executable after contents": (
        root(words("(", "type", "regular", "contents", "", "executable", "", ")")),
        TYPE + 16 + 16 + 8,
        'found "executable" where ")" is expected',
    ),
    "contents twice": (
        root(words("(", "type", "regular", "contents", "", "contents", "", ")")),
        TYPE + 16 + 16 + 8,
        'found "contents" where ")" is expected',
    ),
    "contents longer than a file can be": (
        root(nar.file_header(False, 1 << 63)),
        TYPE + 16 + 16,
        f"contents of {1 << 63} bytes are more than a file can hold",
    ),
    "contents cut": (
        root(nar.file_header(False, 100) + b"x" * 60),
        TYPE + 16 + 16 + 8 + 60,
        "the input ends inside a file's contents",
    ),
    "large contents cut": (
        root(nar.file_header(False, 1 << 62) + bytes(3_000_000)),
        TYPE + 16 + 16 + 8 + 3_000_000,
        "the input ends inside a file's contents",
    ),
    "length of contents cut": (
        root(nar.file_header(False, 1)[:-1]),
        TYPE + 16 + 16 + 7,
        "the input ends inside the length of a file's contents",
    ),
    "padding of contents": (
        root(nar.file_header(False, 1) + b"x" + b"\0\0\0\1\0\0\0" + nar.NODE_CLOSE),
        TYPE + 16 + 16 + 8 + 1,
        "the padding of a file's contents is not zero",
    ),
    "padding of contents cut": (
        root(nar.file_header(False, 1) + b"x\0"),
        TYPE + 16 + 16 + 8 + 2,
        "the input ends inside the padding of a file's contents",
    ),
    "padding of a constant": (
        root(b"\1\0\0\0\0\0\0\0(\0\0\0\0\0\0\1"),
        TOP,
        'found "(" with padding that is not zero where "(" is expected',
    ),
    "no target": (
        root(words("(", "type", "symlink", ")")),
        TYPE + 16,
        'found ")" where "target" is expected',
    ),
    "empty target": (
        root(nar.symlink(b"")),
        TYPE + 32,
        "a symlink target has 0 bytes, 1 to 4095 are allowed",
    ),
    "long target": (
        root(nar.symlink(b"x" * 4096)),
        TYPE + 32,
        "a symlink target has 4096 bytes, at most 4095 are allowed",
    ),
    "endless target": (
        root(words("(", "type", "symlink", "target") + u64((1 << 64) - 1)),
        TYPE + 32,
        f"a symlink target has {(1 << 64) - 1} bytes, at most 4095 are allowed",
    ),
    "target with NUL": (
        root(nar.symlink(b"a\0b")),
        TYPE + 32,
        "a symlink target contains a NUL byte",
    ),
    "padding of a target": (
        root(nar.symlink(b"t")[:-17] + b"\1" + nar.NODE_CLOSE),
        TYPE + 32 + 9,
        "the padding of a symlink target is not zero",
    ),
    "empty name": (entries((b"", LINK)), NAME, "a name has 0 bytes, 1 to 255 are allowed"),
    "long name": (
        entries((b"x" * 256, LINK)),
        NAME,
        "a name has 256 bytes, at most 255 are allowed",
    ),
    "endless name": (
        root(nar.DIRECTORY_OPEN + words("entry", "(", "name") + u64(1 << 40)),
        NAME,
        f"a name has {1 << 40} bytes, at most 255 are allowed",
    ),
    "dot": (entries((b".", LINK)), NAME, '"." is not a valid name'),
    "dot dot": (entries((b"..", LINK)), NAME, '".." is not a valid name'),
    "slash": (entries((b"a/b", LINK)), NAME, '"a/b" is not a valid name'),
    "absolute": (entries((b"/etc", LINK)), NAME, '"/etc" is not a valid name'),
    "NUL": (entries((b"a\0", LINK)), NAME, r'"a\x00" is not a valid name'),
    "padding of a name": (
        entries((b"a", LINK)).replace(token(b"a"), u64(1) + b"a\0\0\0\0\0\0\1"),
        NAME + 9,
        "the padding of a name is not zero",
    ),
    "name twice": (
        entries((b"a", LINK), (b"a", LINK)),
        SECOND,
        '"a" does not sort after "a"',
    ),
    "names out of order": (
        entries((b"b", LINK), (b"a", LINK)),
        SECOND,
        '"a" does not sort after "b"',
    ),
    "names in the order of text": (
        entries(("é".encode(), LINK), (b"z", LINK)),
        SECOND,
        '"z" does not sort after "é"',
    ),
    "node before name": (
        root(nar.DIRECTORY_OPEN + words("entry", "(", "node")),
        NAME - 16,
        'found "node" where "name" is expected',
    ),
    "entry without node": (
        root(nar.DIRECTORY_OPEN + words("entry", "(", "name", "a", ")")),
        NODE - 16,
        'found ")" where "node" is expected',
    ),
    "field in an entry": (
        root(nar.DIRECTORY_OPEN + nar.entry_open(b"a") + LINK + words("entry")),
        NODE + len(LINK),
        'found "entry" where ")" is expected',
    ),
    "not an entry": (
        root(nar.DIRECTORY_OPEN + nar.entry_open(b"a") + LINK + words(")", "contents")),
        NODE + len(LINK) + 16,
        'found "contents" where ")" or "entry" is expected',
    ),
    "directory cut": (
        root(nar.DIRECTORY_OPEN),
        TOP + len(nar.DIRECTORY_OPEN),
        'the input ends where ")" or "entry" is expected',
    ),
    "long token": (
        root(words("(", "x" * 100)),
        TYPE - 16,
        'found a string of 100 bytes where "type" is expected',
    ),
    "control characters": (
        root(words("(", b"\x1b[2J\xff")),
        TYPE - 16,
        r'found "\x1b[2J\xff" where "type" is expected',
    ),
}


@pytest.mark.parametrize(("data", "offset", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes, offset: int, message: str) -> None:
    with pytest.raises(NarError, match=re.escape(message)) as caught:
        parse_nar(io.BytesIO(data).read, TreeSink())
    assert str(caught.value).startswith(f"NAR, byte {offset}: ")


@pytest.mark.parametrize(("data", "offset"), [found[:2] for found in REFUSED.values()], ids=REFUSED)
def test_refused_at_the_same_byte_in_pieces(data: bytes, offset: int) -> None:
    """What is found can be told less exactly, for nothing is read just for the message."""
    for piece in (1, 7, 50) if len(data) < 10_000 else (1 << 16,):
        with pytest.raises(NarError, match=f"^NAR, byte {offset}: "):
            parse_nar(in_pieces(data, piece), TreeSink())


@pytest.mark.parametrize(
    "tree",
    [COMPLICATED, File(b"12345"), Link(b"x"), directory(a=File(b"x" * 30, True), b=directory())],
)
def test_every_truncation_is_noticed(tree: Tree) -> None:
    data = to_nar(tree)
    for size in range(len(data)):
        with pytest.raises(NarError, match=r"^NAR, byte \d+: the input ends"):
            from_nar(data[:size])
    assert from_nar(data) == tree


@pytest.mark.parametrize("piece", [1, 3, 50, 1 << 20])
@pytest.mark.parametrize("tree", [COMPLICATED, File(b"12345"), Link(b"x"), directory()])
def test_nothing_is_asked_for_after_the_end(tree: Tree, piece: int) -> None:
    """A peer that waits for an answer sends nothing more: reading on would never return."""
    data, given_out = to_nar(tree), 0

    def read(wanted: int) -> bytes:
        nonlocal given_out
        assert given_out < len(data), "asked for more than the NAR"
        part = data[given_out : given_out + min(piece, wanted)]
        given_out += len(part)
        return part

    assert from_nar(read) == tree


@pytest.mark.parametrize(
    "data",
    [
        root(nar.file_header(False, 1 << 62) + bytes(100)),
        root(words("(", "type", "symlink", "target") + u64(1 << 40) + bytes(100)),
        u64(1 << 50) + bytes(100),
    ],
)
def test_stated_lengths_are_not_allocated(data: bytes) -> None:
    stream, asked = io.BytesIO(data), 0

    def read(wanted: int) -> bytes:
        nonlocal asked
        asked = max(asked, wanted)
        return stream.read(wanted)

    class Greedy(TreeSink):
        def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
            while read(size):
                pass

    with pytest.raises(NarError):
        parse_nar(read, Greedy())
    assert asked <= DIRECT_SIZE


class Depth:
    """A sink that only counts, because a tree this deep is too much for recursion."""

    def __init__(self) -> None:
        self.depth = self.deepest = self.ended = 0

    def directory(self, name: bytes) -> None:
        self.depth += 1
        self.deepest = max(self.depth, self.deepest)

    def end_directory(self) -> None:
        self.depth -= 1
        self.ended += 1

    def symlink(self, name: bytes, target: bytes) -> None: ...

    def file(self, name: bytes, executable: bool, size: int, read: Read) -> None: ...


def nested(depth: int) -> bytes:
    inner = nar.DIRECTORY_OPEN + (nar.entry_open(b"d") + nar.DIRECTORY_OPEN) * (depth - 1)
    return root(inner + (nar.NODE_CLOSE + nar.ENTRY_CLOSE) * (depth - 1) + nar.NODE_CLOSE)


def test_depth() -> None:
    sink, data = Depth(), nested(MAX_DEPTH)
    parse_nar(io.BytesIO(data).read, sink)
    assert (sink.depth, sink.deepest, sink.ended) == (0, MAX_DEPTH, MAX_DEPTH)
    out = io.BytesIO()
    parse_nar(io.BytesIO(data).read, NarWriter(out.write))
    assert out.getvalue() == data
    with pytest.raises(NarError, match="directories are nested more than 4096 deep"):
        parse_nar(io.BytesIO(nested(MAX_DEPTH + 1)).read, Depth())


@settings(deadline=None, max_examples=400)
@given(mutations() | st.binary(max_size=200), st.integers(1, 64))
def test_mutations_are_refused_or_canonical(data: bytes, piece: int) -> None:
    out, reader = io.BytesIO(), NarReader(in_pieces(data, piece))
    try:
        parse_nar(reader, NarWriter(out.write))
    except NarError:
        return
    assert out.getvalue() == data[: reader.offset]


@settings(deadline=None)
@given(st.lists(trees, min_size=1, max_size=3), st.integers(1, 400))
def test_what_follows_a_nar_stays_readable(several: list[Tree], piece: int) -> None:
    data = b"".join(map(to_nar, several))
    reader = NarReader(in_pieces(data + b"tail", piece))
    assert [from_nar(reader) for _ in several] == several
    assert reader.offset == len(data)


def test_an_error_of_the_sink_comes_through() -> None:
    class Full(TreeSink):
        def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        parse_nar(io.BytesIO(to_nar(COMPLICATED)).read, Full())
