"""Directory messages: against snix's vectors, against protobuf, and against malice."""

from __future__ import annotations

import base64
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import (
    MAX_SIZE,
    Directory,
    DirectoryNode,
    FileNode,
    Node,
    SymlinkNode,
    decode_entry,
    encode_entry,
)
from eka_runtime.errors import CastoreError
from tests.unit.castore import messages
from tests.unit.nix.trees import names, targets
from tests.unit.nix.vectors import by_id, of_kind

D = B3Digest(bytes(range(32)))
EMPTY = FileNode(B3Digest.of(b""), 0)

_A = Directory(())
_KEEP = Directory(((b".keep", EMPTY),))
# A directory of snix's fixtures of which only the digest and the size are known.
_D = DirectoryNode(
    B3Digest.fromhex("76cd8b55b37333961c1778ba997e57df92e219926ae5a66c414b810331a77603"), 6
)
FIXTURES = {
    "castore/dir/DIRECTORY_A": _A,
    "castore/dir/DIRECTORY_WITH_KEEP": _KEEP,
    "castore/dir/DIRECTORY_B": Directory.build([(b"a", _A.node)]),
    "castore/dir/DIRECTORY_C": Directory.build([(b"a'", _A.node), (b"a", _A.node)]),
    "castore/dir/DIRECTORY_E": Directory.build([(b"d", _D)]),
}
_COMPLICATED = Directory.build(
    [
        (b"keep", _KEEP.node),
        (b"aa", SymlinkNode(b"/nix/store/somewhereelse")),
        (b".keep", EMPTY),
    ]
)

sizes = st.integers(0, 300) | st.integers(0, 2**32)
digests = st.binary(min_size=32, max_size=32).map(B3Digest)
nodes: st.SearchStrategy[Node] = (
    st.builds(FileNode, digests, sizes | st.just(MAX_SIZE), st.booleans())
    | st.builds(DirectoryNode, digests, sizes)
    | st.builds(SymlinkNode, targets)
)
directories = st.dictionaries(names, nodes, max_size=8).map(
    lambda found: Directory.build(found.items())
)


@pytest.mark.parametrize("name", FIXTURES)
def test_directories_of_snix(name: str) -> None:
    expected, directory = by_id(name)["output"], FIXTURES[name]
    assert directory.encode().hex() == expected["encoding_hex"]
    assert directory.digest.hex() == expected["b3_hex"]
    assert str(directory.digest) == expected["b3_text"]
    assert directory.size == expected["size"]
    assert Directory.decode(bytes.fromhex(expected["encoding_hex"])) == directory


@pytest.mark.parametrize(("tree", "expected"), of_kind("anonymous_entry+infused_url"))
def test_entries_of_snix(tree: str, expected: dict[str, str]) -> None:
    encoding = bytes.fromhex(expected["entry_hex"])
    name, node = decode_entry(encoding)
    assert name == b""
    assert encode_entry(node) == encoding
    if tree == "COMPLICATED":
        assert node == _COMPLICATED.node
    else:
        assert isinstance(node, FileNode)
        assert (node.size, node.executable) == (12, False)


def test_an_entry_from_a_public_cache() -> None:
    vector = by_id("castore/entry/real-world")
    text = vector["input"].removeprefix("nar/snix-castore/").partition("?")[0]
    name, node = decode_entry(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    expected = vector["output"]
    assert (name, node) == (
        b"",
        DirectoryNode(B3Digest.fromhex(expected["digest_hex"]), expected["size"]),
    )


def _message(directory: Directory) -> Any:
    message = messages.Directory()
    for name, node in directory.entries:
        if isinstance(node, FileNode):
            fields = {"size": node.size, "executable": node.executable, "digest": node.digest}
            message.files.add(name=name, **fields)
        elif isinstance(node, DirectoryNode):
            message.directories.add(name=name, digest=node.digest, size=node.size)
        else:
            message.symlinks.add(name=name, target=node.target)
    return message


@given(directories)
def test_the_encoding_is_that_of_protobuf(directory: Directory) -> None:
    encoding = _message(directory).SerializeToString(deterministic=True)
    assert directory.encode() == encoding
    assert Directory.decode(encoding) == directory
    assert Directory.decode(encoding).digest == B3Digest.of(encoding)


@given(nodes, names | st.just(b""))
def test_entries_are_those_of_protobuf(node: Node, name: bytes) -> None:
    encoding = encode_entry(node, name)
    message = messages.Entry.FromString(encoding)
    assert message.SerializeToString(deterministic=True) == encoding
    kind = message.WhichOneof("entry")
    expected = {FileNode: "file", DirectoryNode: "directory", SymlinkNode: "symlink"}
    assert kind == expected[type(node)]
    assert getattr(message, kind).name == name
    assert decode_entry(encoding) == (name, node)


@given(directories)
def test_size_counts_entries_twice(directory: Directory) -> None:
    below = [node.size for _, node in directory.entries if isinstance(node, DirectoryNode)]
    assert directory.size == 2 * len(directory.entries) + sum(below)
    assert directory.node == DirectoryNode(directory.digest, directory.size)


@given(directories)
def test_get_finds_entries_by_name(directory: Directory) -> None:
    for name, node in directory.entries:
        assert directory.get(name) == node
    assert directory.get(b"") is None
    assert directory.get(b"\xff" * 100) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        directory = Directory.decode(data)
    except CastoreError:
        return
    # What is accepted is canonical, so protobuf agrees with every byte.
    assert _message(directory).SerializeToString(deterministic=True) == data


@given(directories, st.data())
def test_a_changed_byte_never_gives_the_same_directory(
    directory: Directory, data: st.DataObject
) -> None:
    encoding = bytearray(directory.encode() or b"\0")
    index = data.draw(st.integers(0, len(encoding) - 1))
    encoding[index] ^= data.draw(st.integers(1, 255))
    try:
        changed = Directory.decode(bytes(encoding))
    except CastoreError:
        return
    assert changed != directory
    assert changed.digest != directory.digest


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3]) + _varint(value)
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _file(name: bytes, *more: bytes, digest: bytes = D) -> bytes:
    return _field(2, _field(1, name) + _field(2, digest) + b"".join(more))


def _child(name: bytes, size: int) -> bytes:
    return _field(1, _field(1, name) + _field(2, D) + _field(3, size))


def _link(name: bytes, target: bytes) -> bytes:
    return _field(3, _field(1, name) + _field(2, target))


def _outcome(data: bytes) -> Directory | str:
    try:
        return Directory.decode(data)
    except CastoreError as error:
        return str(error)


def _outcome_by_encoding_again(data: bytes) -> Directory | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eka_runtime.castore.node._canonical_entries", lambda _: None)
        return _outcome(data)


# Fields that may follow, shortest or not.
_MORE = [b"\x18\x00", b"\x18\x01", b"\x18\x80\x00", b"\x18\x80\x80\x01", b"\x18\xff\x00"]
_MORE += [b"\x20\x00", b"\x20\x01", b"\x20\x02", b"\x20\x81\x00", b"\x12\x00", b"\x0a\x01b"]


@st.composite
def changed_encodings(draw: st.DrawFn) -> bytes:
    """Mostly well-formed: with a field, a byte or a varint more, less, or in another place."""
    data = bytearray(draw(directories).encode())
    for _ in range(draw(st.integers(1, 2))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.sampled_from([0, 1, 2, 34])))
        data[begin:end] = draw(
            st.binary(max_size=3)
            | st.sampled_from([_file(b"f"), _link(b"l", b"t"), _child(b"d", 1), _link(b"l", b"")])
            | st.sampled_from(_MORE)
            | st.just(bytes(data[begin:end]) * 2)
        )
    return bytes(data)


@settings(deadline=None, max_examples=500)
@given(changed_encodings())
def test_canonical_encodings_are_told_without_encoding_again(data: bytes) -> None:
    assert _outcome(data) == _outcome_by_encoding_again(data)


@pytest.mark.parametrize("tag", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 255])
def test_every_spelling_of_an_entry(tag: int, size: int) -> None:
    name, other = _field(1, b"n" * size), (_field(2, D), _field(2, b"t" * 200), b"")
    bodies = [name + value for value in other] + [value + name for value in other]
    bodies += [body + b"".join(two) for body in bodies for two in product(_MORE, repeat=2)]
    for body in bodies:
        for data in (_field(tag, body), _field(tag, body)[:-1], _field(tag, body) + b"\x1a"):
            assert _outcome(data) == _outcome_by_encoding_again(data)


def test_every_change_of_a_byte() -> None:
    entries: list[tuple[bytes, Node]] = [(b"d", DirectoryNode(D, 300)), (b"e", EMPTY)]
    entries += [(b"f" * 130, FileNode(D, 2**40, True)), (b"l", SymlinkNode(b"target"))]
    encoding = Directory.build(entries).encode()
    for index in range(len(encoding)):
        old = encoding[index]
        for value in {0, 1, 0x7F, 0x80, 0xFF, old ^ 1, old ^ 2, old ^ 8, old ^ 128}:
            data = encoding[:index] + bytes([value]) + encoding[index + 1 :]
            assert _outcome(data) == _outcome_by_encoding_again(data)


@given(directories)
def test_what_is_canonical_is_not_encoded_again(directory: Directory) -> None:
    """The speed of reading directories, as something that can be told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eka_runtime.castore.node._any_entries", None)
        assert Directory.decode(directory.encode()) == directory


HOSTILE = {
    "empty name": (_field(2, _field(2, D)), "name has 0 bytes, not 1 to 255"),
    "long name": (_file(b"n" * 256), "name has 256 bytes"),
    "slash": (_file(b"a/b"), "invalid name: b'a/b'"),
    "NUL": (_file(b"a\0"), "invalid name"),
    "dot": (_file(b"."), r"invalid name: b'\.'"),
    "dot dot": (_file(b".."), r"invalid name: b'\.\.'"),
    "order": (_file(b"b") + _file(b"a"), "names of a list do not ascend"),
    "twice in a list": (_file(b"a") + _file(b"a"), "names of a list do not ascend"),
    "twice in two lists": (_file(b"a") + _link(b"a", b"x"), "name occurs twice: b'a'"),
    "short digest": (_file(b"a", digest=bytes(31)), "digest has 31 bytes, not 32"),
    "no digest": (_field(2, _field(1, b"a")), "digest has 0 bytes, not 32"),
    "empty target": (_field(3, _field(1, b"a")), "target has 0 bytes, not 1 to 4095"),
    "long target": (_link(b"a", b"t" * 4096), "target has 4096 bytes"),
    "NUL in target": (_link(b"a", b"t\0"), "symlink target contains NUL"),
    "sum of sizes": (_child(b"a", 2**63) + _child(b"b", 2**63), "overflows 64 bits"),
    "size and entry": (_child(b"a", 2**64 - 2), "overflows 64 bits"),
    "lists out of order": (_link(b"a", b"x") + _file(b"b"), "not canonical"),
    "explicit default": (_file(b"a", _field(3, 0)), "not canonical"),
    "explicit false": (_file(b"a", _field(4, 0)), "not canonical"),
    "true by another number": (_file(b"a", _field(4, 2)), "not canonical"),
    "fields out of order": (_field(2, _field(2, D) + _field(1, b"a")), "not canonical"),
    "field twice": (_file(b"a", _field(1, b"b")), "not canonical"),
    "long varint": (_file(b"a", b"\x18\x85\x00"), "not canonical"),
    "huge varint": (_file(b"a", b"\x18" + b"\xff" * 9 + b"\x02"), "varint exceeds 64 bits"),
    "endless varint": (_file(b"a", b"\x18" + b"\xff" * 20), "varint exceeds 64 bits"),
    "executable directory": (
        _child(b"a", 0)[:0] + _field(1, _field(1, b"a") + _field(2, D) + b"\x20\x01"),
        "unknown field 4 in entry",
    ),
    "size of a symlink": (
        _field(3, _field(1, b"a") + _field(2, b"x") + b"\x18\x01"),
        "unknown field 3 in entry",
    ),
    "unknown field": (_field(4, b"x"), "unknown field 4"),
    "number for a message": (_field(2, 7), "unknown field 2"),
    "number for a name": (_field(2, _field(1, 7)), "unknown field 1 in entry"),
    "field number 0": (b"\x02\x00", "invalid field number 0"),
    "fixed 64": (b"\x11" + bytes(8), "field 2 has wire type 1"),
    "group": (b"\x13\x00", "field 2 has wire type 3"),
    "truncated": (_file(b"a")[:-1], "message is truncated"),
    "key alone": (b"\x12", "message is truncated"),
    "length beyond the end": (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "message is truncated"),
}


@pytest.mark.parametrize(("data", "rule"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_directories_are_refused_with_the_rule(data: bytes, rule: str) -> None:
    with pytest.raises(CastoreError, match=f"invalid directory: .*{rule}"):
        Directory.decode(data)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "0 nodes instead of one"),
        (_file(b"a") * 2, "2 nodes instead of one"),
        (_file(b"a/b"), "invalid name"),
        (_field(2, _field(1, b"") + _field(2, D)), "not canonical"),
        (_field(3, _field(2, b"")), "target has 0 bytes"),
        (_field(5, b""), "unknown field 5"),
    ],
)
def test_hostile_entries_are_refused_with_the_rule(data: bytes, rule: str) -> None:
    with pytest.raises(CastoreError, match=f"invalid entry: .*{rule}"):
        decode_entry(data)


@pytest.mark.parametrize(
    ("entries", "rule"),
    [
        ([(b"", EMPTY)], "name has 0 bytes"),
        ([(b"a", EMPTY), (b"a", SymlinkNode(b"x"))], "name occurs twice"),
        ([(b"a", FileNode(D, -1))], "size -1"),
        ([(b"a", FileNode(D, 2**64))], "not a 64-bit number"),
        ([(b"a", SymlinkNode(b""))], "target has 0 bytes"),
    ],
)
def test_invalid_directories_cannot_be_built(entries: list[tuple[bytes, Node]], rule: str) -> None:
    with pytest.raises(CastoreError, match=rule):
        Directory.build(entries)


def test_entries_must_be_in_order_unless_they_are_sorted() -> None:
    entries: tuple[tuple[bytes, Node], ...] = ((b"b", EMPTY), (b"a", EMPTY))
    with pytest.raises(CastoreError, match="name is out of order: b'a'"):
        Directory(entries)
    assert Directory.build(entries).entries == entries[::-1]


def test_a_large_directory_takes_no_quadratic_time() -> None:
    # 50 000 entries; anything quadratic would not come back.
    entries = [(b"%06d" % number, EMPTY) for number in range(50_000)]
    directory = Directory.build(entries)
    assert Directory.decode(directory.encode()) == directory
    assert directory.get(b"040000") == EMPTY
