from __future__ import annotations

import hashlib
import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.castore.hashing import StreamHash


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@given(st.lists(st.integers(0, 400_000), max_size=8))
def test_it_is_sha256_whatever_the_pieces(sizes: list[int]) -> None:
    expected = hashlib.sha256()
    with StreamHash() as stream:
        for number, size in enumerate(sizes):
            piece = bytes([number]) * size
            stream.update(piece)
            expected.update(piece)
        assert stream.digest() == expected.digest()
        assert stream.size == sum(sizes)


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_done_is_called_for_every_piece(size: int) -> None:
    calls: list[int] = []
    with StreamHash() as stream:
        for number in range(40):
            stream.update(bytes(size), partial(calls.append, number))
        stream.digest()
    assert calls == list(range(40))


def test_its_thread_ends_with_the_context_even_without_a_digest() -> None:
    def fail() -> None:
        with StreamHash() as stream:
            for _ in range(4):
                stream.update(bytes(1 << 20))
            assert "eka-sha256" in _threads()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "eka-sha256" not in _threads()


def test_short_streams_take_no_thread() -> None:
    with StreamHash() as stream:
        stream.update(bytes(1000))
        assert "eka-sha256" not in _threads()
