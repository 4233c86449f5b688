from __future__ import annotations

import hashlib
import io
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.errors import NarError
from eka_runtime.nix import nar
from eka_runtime.nix.nar import HashingWriter, NarReader, NarWriter, Read, parse_nar
from eka_runtime.nix.tokens import BUFFER_SIZE, DIRECT_SIZE
from tests.unit.nix.conftest import Nix
from tests.unit.nix.trees import (
    COMPLICATED,
    Dir,
    File,
    Link,
    Tree,
    TreeSink,
    directory,
    from_nar,
    in_pieces,
    to_disk,
    to_nar,
    trees,
)
from tests.unit.nix.vectors import by_id, of_kind

VECTOR_TREES: dict[str, Tree] = {
    "symlink": Link(b"/nix/store/somewhereelse"),
    "complicated": COMPLICATED,
}

# Executables, links, an empty directory, names that sort otherwise as text than as bytes, sizes
# around the padding.
VARIED = Dir(
    (
        (b"A", directory()),
        (b"a", directory(**{f"f{size:02}": File(bytes(range(size))) for size in range(18)})),
        (b"a-b", File(b"#!/bin/sh\n", executable=True)),
        (b"a.b", Link(b"../a")),
        (b"aa", File(b"", executable=True)),
        (b"link", Link(b"x" * 4000)),
        ("z\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), File(b"nested" * 1000)),
        (b"z\xff", Link(b"not \xff UTF-8")),
    )
)


def identity(data: bytes, source: Read | NarReader | None = None) -> bytes:
    out = io.BytesIO()
    parse_nar(source or io.BytesIO(data).read, NarWriter(out.write))
    return out.getvalue()


@pytest.mark.parametrize(("name", "expected"), of_kind("nar"))
def test_vectors(name: str, expected: dict[str, Any]) -> None:
    data = to_nar(VECTOR_TREES[name])
    assert len(data) == expected["size"]
    for algo in ("sha256", "sha1", "sha512"):
        digest = hashlib.new(algo, data, usedforsecurity=False).hexdigest()
        assert digest == expected[f"{algo}_hex"]
    if "nar_hex" in expected:
        assert data.hex() == expected["nar_hex"]
    assert from_nar(data) == VECTOR_TREES[name]


def test_listing_vector() -> None:
    """The reader's offset, when a sink gets a file, is that of the contents."""
    offsets: list[int] = []

    class Offsets(TreeSink):
        def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
            offsets.append(reader.offset)

    reader = NarReader(io.BytesIO(to_nar(COMPLICATED)).read)
    parse_nar(reader, Offsets())
    assert offsets == list(by_id("nar/ls-listing")["output"]["offsets"].values())


@settings(deadline=None)
@given(trees, st.integers(1, 64), st.integers(1, 9))
def test_round_trip(tree: Tree, piece: int, step: int) -> None:
    data = to_nar(tree)
    assert from_nar(in_pieces(data, piece), step) == tree
    assert identity(data) == data


@settings(deadline=None)
@given(trees)
def test_low_level_pieces_make_the_same_nar(tree: Tree) -> None:
    def node(tree: Tree) -> tuple[bytes, int]:
        if isinstance(tree, File):
            size = len(tree.contents)
            head = nar.file_header(tree.executable, size)
            overhead = nar.file_overhead(tree.executable, size)
            return head + tree.contents + nar.padding(size) + nar.NODE_CLOSE, size + overhead
        if isinstance(tree, Link):
            return nar.symlink(tree.target), len(nar.symlink(tree.target))
        data, total = nar.DIRECTORY_OPEN, len(nar.DIRECTORY_OPEN + nar.NODE_CLOSE)
        for name, child in tree.entries:
            piece, size = node(child)
            data += nar.entry_open(name) + piece + nar.ENTRY_CLOSE
            total += size + nar.entry_overhead(name)
        return data + nar.NODE_CLOSE, total

    data, size = node(tree)
    assert nar.MAGIC + data == to_nar(tree)
    assert len(data) == size


def test_identical_with_nix_dump(nix: Nix, tmp_path: Path) -> None:
    some: list[Tree] = [VARIED, COMPLICATED, File(b"x", True), File(b""), Link(b"/x")]
    for index, tree in enumerate(some):
        path = to_disk(tree, tmp_path / f"tree{index}")
        dumped = nix("nix-store", "--dump", path)
        assert to_nar(tree) == dumped
        assert from_nar(dumped) == tree
        assert identity(dumped) == dumped


def test_nix_restores_what_is_written(nix: Nix, tmp_path: Path) -> None:
    nix("nix-store", "--restore", tmp_path / "restored", stdin=to_nar(VARIED))
    assert nix("nix-store", "--dump", tmp_path / "restored") == to_nar(VARIED)


def test_files_larger_than_any_buffer() -> None:
    contents = random.Random(1).randbytes(2 * DIRECT_SIZE + BUFFER_SIZE + 3)
    tree = directory(a=File(contents), b=File(contents[:BUFFER_SIZE]), c=Link(b"c"))
    data = to_nar(tree)
    assert len(data) > 2 * len(contents) - DIRECT_SIZE * 2
    for piece in (1000, BUFFER_SIZE, 1 << 30):
        for step in (4096, BUFFER_SIZE, BUFFER_SIZE + 1, 1 << 30):
            assert from_nar(in_pieces(data, piece), step) == tree
        assert identity(data, in_pieces(data, piece)) == data


def test_unread_contents_are_skipped() -> None:
    class Lazy(TreeSink):
        def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
            super().symlink(name, read(2))

    contents = bytes(3 * DIRECT_SIZE + 5)
    data = to_nar(directory(a=File(b"12345"), b=File(contents), c=File(b"ok")))
    sink = Lazy()
    parse_nar(io.BytesIO(data).read, sink)
    assert sink.root == directory(a=Link(b"12"), b=Link(b"\0\0"), c=Link(b"ok"))


def test_writer_takes_contents_in_pieces() -> None:
    out = io.BytesIO()
    NarWriter(out.write).file(b"", False, 10, in_pieces(b"0123456789", 3))
    assert out.getvalue() == to_nar(File(b"0123456789"))


@pytest.mark.parametrize("names", [(), (b"a", b"b")], ids=["root", "entries"])
def test_writer_does_not_copy_large_contents(names: tuple[bytes, ...]) -> None:
    written: list[bytes] = []
    data = bytes((1 << 17) + 3)
    writer = NarWriter(written.append)
    if names:
        writer.directory(b"")
    for name in names or (b"",):
        writer.file_data(name, False, data)
    if names:
        writer.end_directory()
    assert sum(piece is data for piece in written) == max(len(names), 1)
    tree = Dir(tuple((name, File(data)) for name in names)) if names else File(data)
    assert from_nar(b"".join(written)) == tree


def test_writer_joins_small_pieces() -> None:
    written: list[bytes] = []
    parse_nar(io.BytesIO(to_nar(VARIED)).read, NarWriter(written.append))
    assert len(written) == 1


@pytest.mark.parametrize("size", [9, 11, 0])
def test_writer_refuses_contents_of_another_size(size: int) -> None:
    writer = NarWriter(io.BytesIO().write)
    stray = io.BytesIO(b"x" * size).read if size < 10 else lambda wanted: b"x" * size
    with pytest.raises(NarError, match='contents of "" do not have the 10 bytes announced'):
        writer.file(b"", False, 10, stray)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (b"a", '"a" does not sort after "a"'),
        (b"Z", '"Z" does not sort after "a"'),
        (b"", "a name has 0 bytes, 1 to 255 are allowed"),
        (b"b" * 256, "a name has 256 bytes, 1 to 255 are allowed"),
        (b"..", '".." is not a valid name'),
        (b"b/c", '"b/c" is not a valid name'),
    ],
)
def test_writer_refuses_entries(second: bytes, message: str) -> None:
    writer = NarWriter(io.BytesIO().write)
    writer.directory(b"")
    writer.symlink(b"a", b"x")
    with pytest.raises(NarError, match=message):
        writer.directory(second)


@pytest.mark.parametrize("target", [b"", b"x" * 4096, b"a\0b"])
def test_writer_refuses_targets(target: bytes) -> None:
    with pytest.raises(NarError, match="a symlink target"):
        NarWriter(io.BytesIO().write).symlink(b"", target)


def test_writer_writes_one_root() -> None:
    with pytest.raises(NarError, match="one root, which has no name"):
        NarWriter(io.BytesIO().write).directory(b"named")
    writer = NarWriter(io.BytesIO().write)
    writer.symlink(b"", b"x")
    with pytest.raises(NarError, match="one root, which has no name"):
        writer.symlink(b"", b"x")
    with pytest.raises(NarError, match="no directory is open"):
        writer.end_directory()


def test_hashing_writer() -> None:
    data, out = to_nar(VARIED), io.BytesIO()
    hashing = HashingWriter(out.write)
    parse_nar(io.BytesIO(data).read, NarWriter(hashing.write))
    assert (hashing.size, hashing.digest()) == (len(data), hashlib.sha256(data).digest())
    assert out.getvalue() == data
    alone = HashingWriter()
    alone.write(data)
    assert alone.digest() == hashing.digest()
