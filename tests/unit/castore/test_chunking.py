"""Cut points: against snix's vectors, and against the algorithm written down plainly."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.castore.chunking import AVERAGE, check_average, chunks
from eka_runtime.castore.digest import B3Digest
from eka_runtime.errors import UsageError
from tests.unit.nix.trees import in_pieces
from tests.unit.nix.vectors import by_id

_U64 = (1 << 64) - 1
_GEAR = [
    int.from_bytes(hashlib.md5(bytes([byte]) * 64, usedforsecurity=False).digest()[:8])
    for byte in range(256)
]
# Of the published table, those that averages of 256 and 512 bytes use.
_MASKS = {7: 0x18035100, 8: 0x1800035300, 9: 0x19000353000, 10: 0x590003530000}


def _plain_cut(data: bytes, minimum: int, average: int, maximum: int) -> int:
    """FastCDC as the paper has it, byte by byte; the first chunk's size."""
    end = min(len(data), maximum)
    if len(data) <= minimum:
        return len(data)
    center = min(average, end) // 2 * 2
    bits = average.bit_length() - 1
    state = 0
    for position in range(minimum // 2 * 2, end // 2 * 2):
        state = ((state << 1) + _GEAR[data[position]]) & _U64
        if not state & (_MASKS[bits + 1] if position < center else _MASKS[bits - 1]):
            return position
    return end


def _plain_sizes(data: bytes, minimum: int, average: int, maximum: int) -> Iterator[int]:
    while data:
        size = _plain_cut(data, minimum, average, maximum)
        yield size
        data = data[size:]


def _sizes(data: bytes, average: int = AVERAGE) -> list[int]:
    return [len(chunk) for chunk in chunks(io.BytesIO(data).read, average)]


def test_the_plain_algorithm_is_that_of_the_vectors() -> None:
    for name, value in by_id("castore/fastcdc/gear")["output"].items():
        assert _GEAR[int(name.removeprefix("GEAR_"))] == int(value, 16)
    zeros = by_id("castore/fastcdc/zeros")["output"]["chunks"]
    assert list(_plain_sizes(bytes(10240), 64, 256, 1024)) == zeros


def test_cuts_are_those_of_snix() -> None:
    data = b"".join(
        hashlib.sha256(number.to_bytes(8, "little")).digest() for number in range(131072)
    )
    expected = by_id("castore/fastcdc/sha256-counter")["output"]
    assert B3Digest.of(data).hex() == expected["b3_hex"]
    assert _sizes(data) == expected["chunks"]


def test_a_blob_of_snix() -> None:
    data = bytes(range(255)) * 4096
    expected = by_id("castore/blob/BLOB_B")["output"]["chunks_default"]
    found = [(len(chunk), B3Digest.of(chunk).hex()) for chunk in chunks(io.BytesIO(data).read)]
    assert found == [(chunk["size"], chunk["b3_hex"]) for chunk in expected]


@given(st.integers(0, 2**32), st.integers(0, 20_000), st.integers(1, 3000))
def test_cuts_are_those_of_the_plain_algorithm(seed: int, size: int, piece: int) -> None:
    data = random.Random(seed).randbytes(size)
    found = list(chunks(in_pieces(data, piece), 512))
    assert b"".join(found) == data
    assert [len(chunk) for chunk in found] == list(_plain_sizes(data, 256, 512, 1024))


def test_cuts_do_not_depend_on_how_the_contents_arrive() -> None:
    data = random.Random(1).randbytes(9_000_001)
    whole = _sizes(data)
    assert len(whole) > 20
    for piece in (100_003, 1 << 21):
        assert [len(chunk) for chunk in chunks(in_pieces(data, piece))] == whole


@pytest.mark.parametrize("size", [0, 1, AVERAGE // 2])
def test_short_contents_are_one_chunk_and_empty_ones_none(size: int) -> None:
    assert _sizes(random.Random(2).randbytes(size)) == ([size] if size else [])


@pytest.mark.parametrize("average", [1 << 9, 1 << 21])
def test_average_sizes_that_snix_takes(average: int) -> None:
    check_average(average)
    assert sum(_sizes(bytes(10_000_000), average)) == 10_000_000


@pytest.mark.parametrize("average", [0, 511, (1 << 21) + 1])
def test_other_average_sizes_are_refused(average: int) -> None:
    with pytest.raises(UsageError, match=f"average chunk size {average} is not from 512"):
        check_average(average)
