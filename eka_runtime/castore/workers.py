"""Work on parts in processes forked for it, with answers through pipes, in the order of the parts.

Not concurrent.futures: its imports, threads and queues cost more than some stores take to verify.
Each worker takes every n-th part, so nothing has to be handed out. Parts should be many and alike.
Workers die with their parent, and leave Ctrl-C to him.
"""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO, Generic, TypeVar

from eka_runtime.castore.placing import write_all
from eka_runtime.closing import Closing
from eka_runtime.errors import HostError
from eka_runtime.linux.syscalls import die_with_parent

P = TypeVar("P")
R = TypeVar("R")


class Workers(Closing, Generic[P, R]):
    """At work from the beginning; iterating gives the answers, or raises what a worker raised.

    `work` gets the parts of one worker and answers each. Closing ends those that are still at it.
    Parts and `work` need not be picklable, answers have to be. Of what it inherits a worker may use
    nothing but what `work` needs.
    """

    def __init__(
        self, work: Callable[[Sequence[P]], Iterable[R]], parts: Sequence[P], number: int
    ) -> None:
        self._parts = len(parts)
        self._pids: list[int] = []
        self._answers: list[BinaryIO] = []
        try:
            for first in range(number):
                self._start(work, parts[first::number])
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[R]:
        for part in range(self._parts):
            try:
                answer, error = pickle.load(self._answers[part % len(self._answers)])
            except (EOFError, pickle.UnpicklingError):
                raise HostError(
                    "a process that was started to help has ended",
                    hint="see whether the host is short of memory",
                ) from None
            if error is not None:
                raise error
            yield answer

    def close(self) -> None:
        for pid in self._pids:
            # Where SIGCHLD is ignored they are gone when they have ended.
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for pipe in self._answers:
            pipe.close()
        self._pids, self._answers = [], []

    def _start(self, work: Callable[[Sequence[P]], Iterable[R]], parts: Sequence[P]) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._answers.append(os.fdopen(reading, "rb"))
        try:
            # A signal between the fork and what follows would find a worker that takes itself for
            # its parent, or a parent that does not know it yet.
            with _signals_held() as before:
                pid = os.fork()
                if not pid:
                    _serve(work, parts, writing, before)
                self._pids.append(pid)
        finally:
            os.close(writing)


@contextmanager
def _signals_held() -> Iterator[set[int]]:
    """Yields those that were held before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    work: Callable[[Sequence[P]], Iterable[R]],
    parts: Sequence[P],
    writing: int,
    held: Iterable[int],
) -> None:
    """The whole life of a worker, which begins with all signals held."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        die_with_parent()
        for answer in _answers(work, parts):
            write_all(writing, pickle.dumps(answer))
        status = 0
    except BaseException:
        write_all(2, traceback.format_exc().encode())
    finally:
        # Nothing of the parent's is closed, flushed or cleaned up here.
        os._exit(status)


def _answers(
    work: Callable[[Sequence[P]], Iterable[R]], parts: Sequence[P]
) -> Iterator[tuple[R | None, Exception | None]]:
    try:
        for answer in work(parts):
            yield answer, None
    except Exception as error:
        yield None, error
