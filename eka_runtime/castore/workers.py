"""Work on parts in processes forked for it, with answers through pipes, in the order of the parts.

Not concurrent.futures: its imports, threads and queues cost more than some stores take to verify.
Each worker takes every n-th part, so nothing has to be handed out. Parts should be many and alike.
Workers die with their parent, and leave Ctrl-C to him.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO, Generic, TypeVar

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
            # Where children are not to be waited for (SIGCHLD is ignored), they are gone by now.
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for pipe in self._answers:
            pipe.close()
        self._pids, self._answers = [], []

    def _start(self, work: Callable[[Sequence[P]], Iterable[R]], parts: Sequence[P]) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        # An interrupt between fork(2) and `_serve` would let the child go on as its parent.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        pid = os.fork()
        if not pid:
            _serve(work, parts, writing)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(writing)
        self._pids.append(pid)
        self._answers.append(os.fdopen(reading, "rb"))


def _serve(work: Callable[[Sequence[P]], Iterable[R]], parts: Sequence[P], writing: int) -> None:
    """The whole life of a worker."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent()
        with open(writing, "wb") as pipe:
            try:
                for answer in _answers(work, parts):
                    pickle.dump(answer, pipe)
                    pipe.flush()
            except BaseException:
                # Before the pipe is closed, at which the parent ends us.
                traceback.print_exc()
                sys.stderr.flush()
    finally:
        # Nothing of the parent's is closed, flushed or cleaned up here.
        os._exit(0)


def _answers(
    work: Callable[[Sequence[P]], Iterable[R]], parts: Sequence[P]
) -> Iterator[tuple[R | None, Exception | None]]:
    try:
        for answer in work(parts):
            yield answer, None
    except Exception as error:
        yield None, error
