from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.build.references import Rewriter, Scanner
from eka_runtime.nix.base32 import ALPHABET
from eka_runtime.nix.path import StorePath

A, B, C = (StorePath(digit * 31 + "1", "x") for digit in "abc")
PATHS = (A, B, C)

pieces = st.one_of(
    st.binary(max_size=70),
    st.sampled_from([path.hash.encode() for path in PATHS]),
    st.text(st.sampled_from(ALPHABET), max_size=70).map(str.encode),
    st.sampled_from([b"a" * 31, b"1", b"a", b"0" * 2000, b"a" * 1500]),
)


def scan(parts: list[bytes]) -> set[StorePath]:
    scanner = Scanner(PATHS)
    for part in parts:
        scanner.update(part)
    return set(scanner.found())


@given(st.lists(pieces, max_size=12))
def test_the_scanner_sees_what_find_sees(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    assert scan(parts) == {path for path in PATHS if path.hash.encode() in whole}


@given(st.lists(pieces, max_size=8), st.integers(1, 40))
def test_pieces_do_not_matter(parts: list[bytes], size: int) -> None:
    whole = b"".join(parts)
    cut = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert scan(cut) == scan([whole])


def test_overlapping_occurrences_are_seen() -> None:
    # The first ends with the digits that the second begins with.
    first, second = StorePath("0" * 16 + "1" * 16, "x"), StorePath("1" * 16 + "2" * 16, "x")
    scanner = Scanner([first, second])
    scanner.update(b"0" * 16 + b"1" * 16 + b"2" * 16)
    assert scanner.found() == (first, second)


def test_a_hash_within_a_longer_run_of_digits() -> None:
    for run in (b"zz", b"z" * 5000):
        assert scan([b" " + run + A.hash.encode() + run]) == {A}


@given(st.integers(0, 100), st.integers(0, 2000), st.integers(0, 40))
def test_a_hash_among_nothing_but_digits(before: int, after: int, more: int) -> None:
    dump = (bytes(range(256)) * 8).hex().replace("e", "f").encode()
    data = b" " * before + dump[:after] + b"." + dump + A.hash.encode() + dump[: after + more]
    assert scan([data]) == {A}
    assert scan([data.replace(A.hash.encode(), A.hash[:-1].encode() + b"2")]) == set()


def test_views_are_taken_as_they_are() -> None:
    buffer = bytearray(A.hash.encode())
    scanner = Scanner(PATHS)
    scanner.update(memoryview(buffer)[:20])
    buffer[:20] = b"x" * 20
    scanner.update(memoryview(buffer)[20:])
    assert scanner.found() == (A,)


texts = st.sampled_from([b"aab", b"b", b"a", b"ab", b"", b"aabaab", b"caab"])


@given(st.lists(texts, max_size=10))
def test_rewriting_is_replacing(parts: list[bytes]) -> None:
    out: list[bytes] = []
    rewriter = Rewriter({b"aab": b"XYZ"}, out.append)
    for part in parts:
        rewriter.update(part)
    rewriter.finish()
    whole, done = b"".join(parts), b"".join(out)
    assert done == whole.replace(b"aab", b"XYZ")
    assert rewriter.positions == [at for at in range(len(done)) if done.startswith(b"XYZ", at)]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="its length"):
        Rewriter({b"a": b"bc"}, lambda data: None)
