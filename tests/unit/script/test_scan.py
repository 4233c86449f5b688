from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka.script import scan as module
from eka.script.scan import CHUNK, Candidate, Resolution, describe_offset, resolve, scan
from eka_runtime.errors import FormatError
from eka_runtime.nix.path import StorePath

H1 = "0123456789abcdfghijklmnpqrsvwxyz"
H2 = "zyxwvsrqpnmlkjihgfdcba9876543210"
H3 = "a" * 32


def scan_bytes(data: bytes) -> list[Candidate]:
    return scan(io.BytesIO(data).read)


def pieces(data: bytes, size: int) -> Callable[[int], bytes]:
    stream = io.BytesIO(data)
    return lambda limit: stream.read(min(size, limit))


def test_mentions_are_found_in_order_and_once() -> None:
    text = (
        f"#!/nix/store/{H2}-bash-5.2/bin/sh\n/nix/store/{H1}-jq /nix/store/{H2}-bash-5.2".encode()
    )
    assert scan_bytes(text) == [Candidate(H2, "bash-5.2", 2), Candidate(H1, "jq", 62)]
    assert str(scan_bytes(text)[0]) == f"/nix/store/{H2}-bash-5.2"


def test_mentions_are_found_in_binaries() -> None:
    data = b"\x7fELF\0\xff" + f"/nix/store/{H1}-glibc-2.38/lib/ld.so".encode() + b"\0\0"
    assert scan_bytes(data) == [Candidate(H1, "glibc-2.38", 6)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/nix/store/",
        f"/nix/store/{H1}",
        f"/nix/store/{H1}-",
        f"/nix/store/{H1}- x",
        f"/nix/store/{H1[:-1]}-x",
        f"/nix/store/{H1[:-1]}e-x",
        f"/nix/store/{H1}0-x",
        f"/nix/store/{H1.upper()}-x",
        f"/nix/Store/{H1}-x",
        f"/nix/store/.links/{H1}-x",
    ],
)
def test_what_is_no_mention(text: str) -> None:
    assert scan_bytes(text.encode()) == []


def test_names_are_taken_greedily_up_to_the_limit() -> None:
    name = "a" * 211
    assert scan_bytes(f"/nix/store/{H1}-{name}bcd".encode()) == [Candidate(H1, name, 0)]
    assert scan_bytes(f"/nix/store/{H1}-A+b.c_d?e=f-é".encode()) == [
        Candidate(H1, "A+b.c_d?e=f-", 0)
    ]


def test_a_prefix_may_overlap_another() -> None:
    assert scan_bytes(f"/nix/store/nix/store/{H1}-x".encode()) == [Candidate(H1, "x", 10)]
    assert scan_bytes(f"/nix/store//nix/store/{H1}-x".encode()) == [Candidate(H1, "x", 11)]


@pytest.mark.parametrize("distance", [0, 1, 5, 10, 11, 12, 42, 43, 44, 60, 254, 255, 256, 300])
def test_mentions_across_a_chunk_edge_are_whole(distance: int) -> None:
    name = "n" * 211
    mention = f"/nix/store/{H1}-{name}".encode()
    for edge in (CHUNK, 2 * CHUNK):
        data = b"x" * (edge - distance) + mention + b"/" + b"x" * CHUNK
        assert scan_bytes(data) == [Candidate(H1, name, edge - distance)]
    data = b"x" * (CHUNK - distance) + mention[:60]
    assert scan_bytes(data) == [Candidate(H1, "n" * 16, CHUNK - distance)]


@given(
    st.lists(
        st.sampled_from([
            b"/nix/store/", b"/nix/", b"store/", H1.encode(), H2.encode(), b"-", b"-jq-1.7", b"x",
            b"\0", b" ", b"e" * 32, b"n" * 200,
        ]),
        max_size=30,
    ),
    st.integers(1, 400),
)  # fmt: skip
def test_the_size_of_reads_makes_no_difference(parts: list[bytes], size: int) -> None:
    data = b"".join(parts)
    whole = scan_bytes(data)
    assert scan(pieces(data, size)) == whole
    for found in whole:
        assert data[found.offset :].startswith(str(found).encode())


def test_memory_is_bounded_by_the_window() -> None:
    sizes: list[int] = []

    def read(limit: int) -> bytes:
        sizes.append(limit)
        return b"\0" * limit if len(sizes) < 5 else b""

    assert scan(read) == []
    assert max(sizes) <= CHUNK


def test_too_many_mentions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(f"/nix/store/{H1}-{number} ".encode() for number in range(5))
    monkeypatch.setattr(module, "MAX_CANDIDATES", 5)
    assert len(scan_bytes(data)) == 5
    monkeypatch.setattr(module, "MAX_CANDIDATES", 4)
    with pytest.raises(FormatError, match="more than 4 store paths are mentioned"):
        scan_bytes(data)


STORE = {H1: StorePath(H1, "foo-1.0"), H2: StorePath(H2, "bar")}


@pytest.mark.parametrize("text", ["foo-1.0", "foo-1.0.", "foo-1.0-dev", "foo-1.0=x"])
def test_the_stores_name_decides(text: str) -> None:
    assert resolve([Candidate(H1, text, 0)], STORE.get) == Resolution((STORE[H1],), ())


@pytest.mark.parametrize("candidate", [Candidate(H1, "foo-1", 7), Candidate(H3, "foo-1.0", 0)])
def test_what_the_store_has_not_is_missing(candidate: Candidate) -> None:
    assert resolve([candidate], STORE.get) == Resolution((), (candidate,))


def test_resolution_keeps_the_order_and_forgives_clipped_mentions() -> None:
    lost = Candidate(H3, "lost", 3)
    mentions = [
        Candidate(H1, "fo", 0),
        Candidate(H2, "bar.", 1),
        Candidate(H1, "foo-1.0", 2),
        lost,
        Candidate(H2, "bar", 4),
    ]
    assert resolve(mentions, STORE.get) == Resolution((STORE[H2], STORE[H1]), (lost,))


@pytest.mark.parametrize(
    ("data", "offset", "described"),
    [
        (b"abc", 0, "f:1:1"),
        (b"abc", 2, "f:1:3"),
        (b"a\nbc\nd", 2, "f:2:1"),
        (b"a\nbc\nd", 3, "f:2:2"),
        (b"a\nbc\nd", 5, "f:3:1"),
        (b"a\n" + b"b" * CHUNK + b"c", CHUNK + 2, f"f:2:{CHUNK + 1}"),
        (b"\n" * CHUNK + b"\nc", CHUNK + 1, f"f:{CHUNK + 2}:1"),
        (b"a\0b", 2, "f: byte 2"),
        (b"a\0b", 1, "f:1:2"),
    ],
)
def test_offsets_are_described(data: bytes, offset: int, described: str) -> None:
    assert describe_offset(io.BytesIO(data), "f", offset) == described


def test_describing_reads_no_further_than_needed() -> None:
    stream = io.BytesIO(b"x" * 100)
    describe_offset(stream, "f", 10)
    assert stream.tell() == 10
