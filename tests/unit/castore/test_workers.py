"""Processes that help: what becomes of one that is killed, and of one whose answer is none."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from eka_runtime.castore.workers import Workers, forked
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
    with Workers(unspeakable, [1], 1) as workers:
        with pytest.raises(HostError):
            list(workers)
        ended = os.waitid(os.P_PID, workers._pids[0], os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert ended.si_status == 1
    assert "lambda" in capfd.readouterr().err


# Raised without Python, in which the signal would be handled before fork() returns.
INTERRUPTED = """
import ctypes, functools, os, signal
from eka_runtime.castore.workers import Workers
raises = functools.partial(ctypes.CDLL(None)["raise"], int(signal.{name}))
signal.signal(signal.{name}, signal.default_int_handler)
os.register_at_fork(after_in_child=raises)
parent = os.getpid()
try:
    with Workers(iter, [1, 2], 2) as workers:
        list(workers)
finally:
    os.write(1, b"parent" if os.getpid() == parent else b"child")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_one_that_a_signal_finds_as_it_begins_does_not_go_on_as_its_parent(name: str) -> None:
    words = [sys.executable, "-c", INTERRUPTED.format(name=name)]
    assert subprocess.run(words, capture_output=True, check=False).stdout == b"parent"


FULL = """
import os, resource, signal
from eka_runtime.castore.workers import Workers
if not os.geteuid():
    os.setuid(65534)  # root has no limit
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
before = os.dup(1)
os.close(before)
try:
    Workers(iter, [1], 1)
except BlockingIOError:
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert os.dup(1) == before
    print("full")
"""


def test_nothing_is_left_when_there_can_be_no_more_processes() -> None:
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, check=False)
    assert done.stdout == b"full\n", done.stderr


ORPHAN = """
import fcntl, os, sys
from eka_runtime.castore import workers

locked = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
fcntl.flock(locked, fcntl.LOCK_EX)
ready, tell = os.pipe()
forked_at = os.getpid()

def late():
    # As if the parent died right after the fork, before anything could tell the kernel.
    os.write(tell, b"x")
    while os.getppid() == forked_at:
        os.sched_yield()

workers.die_with_parent = late
pid = workers.forked(lambda: open(sys.argv[2], "w").close(), (tell,))
os.read(ready, 1)
os._exit(0)
"""


def test_one_whose_parent_has_died_does_nothing_and_keeps_no_lock(tmp_path: Path) -> None:
    lock, mark = tmp_path / "lock", tmp_path / "mark"
    # The pipe ends when the helper has.
    subprocess.run([sys.executable, "-c", ORPHAN, lock, mark], stdout=subprocess.PIPE, check=True)
    assert not mark.exists()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_one_keeps_its_own_descriptors_and_the_standard_ones(tmp_path: Path) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with open(tmp_path / "other", "w"), os.fdopen(reading) as told:
        pid = forked(lambda: _tell(writing), (writing,))
        os.close(writing)
        found = {int(number) for number in told.read().split()}
        os.waitpid(pid, 0)
    assert {0, 1, 2, writing} < found
    # The last one reads the list.
    assert len(found) == 5


def _tell(fd: int) -> None:
    os.write(fd, " ".join(os.listdir("/proc/self/fd")).encode())
