"""Blob files that another process writes, which gets their contents through shared memory.

A file takes ten system calls, and a thread that makes them hands the interpreter's lock to and fro
with whoever parses and hashes meanwhile: with 1 400 such files among 40 000, that was a quarter of
an import's time. Nothing is durable or visible by this: see `batch.py`.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import ExitStack
from struct import Struct

from eka_runtime.castore.placing import Placing, finish, write_all
from eka_runtime.castore.workers import end, ended, forked
from eka_runtime.closing import Closing

SLOT = 1 << 20
"""No file may be larger."""

_SLOTS = 16
_JOB = Struct("=I?32s")
_ANSWER = Struct("=i")  # an errno, 0 when all is well


class FileWriter(Closing):
    """Leaving it without `finish` ends it; some of the files may be there then.

    Raises OSErrors, also those of files that were put before, and HostError when the process was
    killed. `tmp` and `target` as for Placing, of which it makes files without names only.
    """

    def __init__(self, tmp: str, target: str) -> None:
        self._arena = memoryview(mmap.mmap(-1, SLOT * _SLOTS))
        self._sent = self._done = 0
        with ExitStack() as stack, ExitStack() as inner:
            jobs, self._jobs = os.pipe2(os.O_CLOEXEC)
            inner.callback(os.close, jobs)
            stack.callback(os.close, self._jobs)
            self._answers, answers = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, self._answers)
            inner.callback(os.close, answers)

            def life() -> None:
                _serve(Placing(tmp, target), self._arena, jobs, answers)

            stack.callback(end, forked(life, (jobs, answers)))
            self._stack = stack.pop_all()

    def put(self, name: str, data: bytes | memoryview, executable: bool) -> None:
        """Begins to write a file; waits while there are many before it."""
        while self._sent - self._done == _SLOTS:
            self._hear()
        start = self._sent % _SLOTS * SLOT
        self._arena[start : start + len(data)] = data
        try:
            os.write(self._jobs, _JOB.pack(len(data), executable, name.encode()))
        except BrokenPipeError:
            raise ended() from None
        self._sent += 1

    def finish(self) -> None:
        """Waits until all are written and have their names."""
        while self._done < self._sent:
            self._hear()

    def close(self) -> None:
        self._stack.close()

    def _hear(self) -> None:
        said = os.read(self._answers, _ANSWER.size)
        if not said:
            raise ended()
        self._done += 1
        (number,) = _ANSWER.unpack(said)
        if number:
            raise OSError(number, os.strerror(number))


def _serve(placing: Placing, arena: memoryview, jobs: int, answers: int) -> None:
    number = 0
    while job := os.read(jobs, _JOB.size):
        size, executable, name = _JOB.unpack(job)
        start = number % _SLOTS * SLOT
        try:
            _write(placing, name.rstrip(b"\0").decode(), arena[start : start + size], executable)
            error = 0
        except OSError as raised:
            error = raised.errno or -1
        write_all(answers, _ANSWER.pack(error))
        number += 1


def _write(placing: Placing, name: str, data: memoryview, executable: bool) -> None:
    file = placing.create()
    try:
        write_all(file.fd, data)
        # Dirty pages stay, but the kernel begins to write, which syncing would wait for.
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finish(file.fd, executable)
        if not placing.place(file, name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    finally:
        placing.drop(file)
