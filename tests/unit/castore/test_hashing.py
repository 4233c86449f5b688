from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.castore import hashing
from eka_runtime.castore.hashing import StreamHash
from eka_runtime.errors import HostError


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


def children() -> set[int]:
    """Also such that ended and were not waited for; other tests may have some."""
    me = os.getpid()
    return set(map(int, Path(f"/proc/{me}/task/{me}/children").read_text().split()))


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process goes on soon."""
    monkeypatch.setattr(hashing, "APART", 1 << 18)
    monkeypatch.setattr(hashing, "may_fork", lambda: True)


@pytest.mark.usefixtures("apart")
@given(st.lists(st.integers(0, 700_000), max_size=12))
@settings(max_examples=25)
def test_a_process_goes_on_with_the_same_hash(sizes: list[int]) -> None:
    before, expected = children(), hashlib.sha256()
    with StreamHash() as stream:
        for number, size in enumerate([300_000, *sizes]):
            piece = bytes([number]) * size
            stream.update(piece)
            expected.update(piece)
        assert len(children() - before) == 1
        assert stream.digest() == expected.digest()
    assert children() == before


@pytest.mark.usefixtures("apart")
def test_pieces_may_change_when_they_are_done_with() -> None:
    piece, calls = bytearray(b"a" * 300_000), []
    with StreamHash() as stream:
        stream.update(piece)
        stream.update(piece, lambda: calls.append(1))
        piece[:] = b"b" * 300_000
        assert calls == [1]
        assert stream.digest() == hashlib.sha256(b"a" * 600_000).digest()


@pytest.mark.usefixtures("apart")
def test_large_pieces_stay_in_the_thread() -> None:
    before = children()
    with StreamHash() as stream:
        stream.update(bytes(1 << 20), lambda: None)
        stream.update(bytes(1 << 20))
        assert children() == before


@pytest.mark.usefixtures("apart")
def test_a_process_that_is_killed_is_an_error() -> None:
    def go_on(stream: StreamHash) -> None:
        for _ in range(100):
            stream.update(bytes(1 << 20))
        stream.digest()

    before = children()
    with StreamHash() as stream:
        stream.update(bytes(1 << 19))
        [pid] = children() - before
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(HostError, match="has ended"):
            go_on(stream)
    assert children() == before


ASKING = """
import os, threading
from eka_runtime.castore.workers import may_fork

os.sched_getaffinity = lambda _: {0, 1}
wait = threading.Event()
ours = threading.Thread(target=wait.wait, name="eka-pack_0", daemon=True)
ours.start()
answers = [may_fork()]
others = threading.Thread(target=wait.wait, daemon=True)
others.start()
answers.append(may_fork())
wait.set()
others.join()
thread = threading.Thread(target=lambda: answers.append(may_fork()), name="eka-pack_1")
thread.start()
thread.join()
os.sched_getaffinity = lambda _: {3}
print(*answers, may_fork())
"""


def test_whoever_has_threads_of_others_or_one_processor_does_not_fork() -> None:
    # In a process of its own, which has no threads of pytest's.
    done = subprocess.run([sys.executable, "-c", ASKING], capture_output=True, check=True)
    assert done.stdout == b"True False False False\n"


@pytest.mark.usefixtures("apart", "no_processes")
def test_where_no_process_is_to_be_had_a_thread_goes_on() -> None:
    with StreamHash() as stream:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(6):
            stream.update(bytes(300_000))
        assert len(os.listdir("/proc/self/fd")) == before
        assert "eka-sha256" in _threads()
        assert stream.digest() == hashlib.sha256(bytes(1_800_000)).digest()
