from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.errors import NarError
from eka_runtime.nix.nar import NarReader, Read, parse_nar
from eka_runtime.nix.tokens import BUFFER_SIZE, DIRECT_SIZE, padding, token, u64
from tests.unit.nix.trees import (
    COMPLICATED,
    File,
    Tree,
    TreeSink,
    directory,
    from_nar,
    in_pieces,
    to_nar,
    trees,
)


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_token(data: bytes) -> None:
    written = token(data)
    assert len(written) % 8 == 0
    assert written == u64(len(data)) + data + padding(len(data))
    reader = NarReader(in_pieces(written + b"x", 3))
    assert reader.string(40, "it") == data
    assert reader.offset == len(written)


def test_numbers_and_strings_in_a_row() -> None:
    reader = NarReader(in_pieces(u64(7) + token(b"seven") + u64((1 << 64) - 1), 1))
    assert (reader.u64("n"), reader.string(5, "s")) == (7, b"seven")
    assert reader.u64("n") == (1 << 64) - 1
    with pytest.raises(NarError, match=r"^NAR, byte 32: the input ends inside the next number$"):
        reader.u64("the next number")


def test_messages_name_the_subject() -> None:
    reader = NarReader(io.BytesIO(b"").read, subject="daemon request")
    assert str(reader.error("it is odd", 5)) == "daemon request, byte 5: it is odd"
    with pytest.raises(NarError, match=r"^daemon request, byte 0: the input ends inside a word$"):
        reader.string(9, "a word")


@pytest.mark.parametrize("rest", [0, 1, 5])
def test_match_takes_the_alternative_that_is_there(rest: int) -> None:
    alternatives = (token(b"a") + token(b"b"), token(b"a") + token(b"longer one"), token(b"c"))
    for index, tokens in enumerate(alternatives):
        reader = NarReader(in_pieces(tokens + b"r" * rest, 1))
        assert reader.match(alternatives) == index
        assert reader.offset == len(tokens)


@settings(deadline=None)
@given(trees, trees, st.integers(1, 300))
def test_tee_sees_what_is_consumed_and_nothing_else(first: Tree, second: Tree, piece: int) -> None:
    data, seen = to_nar(first), bytearray()
    reader = NarReader(in_pieces(u64(1) + data + to_nar(second), piece))
    reader.u64("a mark")
    with reader.tee(seen.extend):
        assert from_nar(reader) == first
    assert from_nar(reader) == second
    assert seen == data


@pytest.mark.parametrize("step", [0, 1000, BUFFER_SIZE, 1 << 30])
@pytest.mark.parametrize("piece", [100_000, BUFFER_SIZE, 1 << 30])
def test_tee_sees_large_contents_however_they_are_read(step: int, piece: int) -> None:
    class Sometimes(TreeSink):
        def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
            read(step)

    contents = random.Random(2).randbytes(3 * DIRECT_SIZE + 1)
    data = to_nar(directory(a=File(contents), b=File(contents[:5]), c=File(contents)))
    seen: list[bytes] = []
    reader = NarReader(in_pieces(data, piece))
    with reader.tee(seen.append):
        parse_nar(reader, Sometimes())
    assert b"".join(seen) == data
    assert len(seen) < 300


def test_one_tee_at_a_time() -> None:
    reader = NarReader(io.BytesIO(to_nar(COMPLICATED)).read)
    ignore = bytearray().extend
    with reader.tee(ignore), pytest.raises(ValueError, match="teed already"), reader.tee(ignore):
        pass
    with reader.tee(ignore):
        from_nar(reader)


@pytest.mark.parametrize("size", [1, 1000, BUFFER_SIZE])
def test_reads_up_to_the_buffer_are_never_short(size: int) -> None:
    got: list[int] = []

    class Sizes(TreeSink):
        def file(self, name: bytes, executable: bool, length: int, read: Read) -> None:
            got.extend(len(data) for data in iter(lambda: read(size), b""))
            assert read(size) == read(0) == b""

    contents = bytes(2 * size + size // 2)
    parse_nar(in_pieces(to_nar(File(contents)), 777), Sizes())
    assert got == [size, size, size // 2][: 2 + (size > 1)]
