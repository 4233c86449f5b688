"""Processes that help: what becomes of one that is killed, and of one whose answer is none."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from eka_runtime.castore.workers import Workers
from eka_runtime.errors import HostError


def large(parts: Sequence[int]) -> Iterator[bytes]:
    for part in parts:
        yield bytes([part]) * (1 << 20)


def test_one_that_is_killed_in_the_middle_of_an_answer() -> None:
    with Workers(large, [1, 2], 1) as workers:
        [answers], [pid] = workers._answers, workers._pids
        # More than a pipe takes, so it is still writing when something has come.
        assert select.select([answers], [], [], 60)[0]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(HostError, match="has ended"):
            list(workers)


IGNORING = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from eka_runtime.castore.workers import Workers
with Workers(iter, [1, 2, 3], 2) as workers:
    print(list(workers))
"""


def test_whoever_started_us_may_have_ignored_the_ends_of_children() -> None:
    done = subprocess.run([sys.executable, "-c", IGNORING], capture_output=True, check=True)
    assert done.stdout == b"[1, 2, 3]\n"


def unspeakable(parts: Sequence[int]) -> Iterator[object]:
    for _ in parts:
        yield lambda: None


def test_an_answer_that_cannot_be_sent_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(unspeakable, [1], 1) as workers, pytest.raises(HostError):
        list(workers)
    assert "lambda" in capfd.readouterr().err
