"""Helpers that fill memory which is shared with them: one task, one slot, one answer.

Processes, since what they are for is short and would hand Python's lock to and fro; memory,
since contents would not come through pipes any faster than reading them takes. Results come in the
order of the tasks. Like all that is forked (`workers.py`) a helper uses nothing of its parent's but
what its work needs.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import BinaryIO, Generic, NamedTuple, TypeVar

from eka_runtime.castore.placing import write_all
from eka_runtime.castore.workers import end, ended, forked
from eka_runtime.closing import Closing

T = TypeVar("T")
A = TypeVar("A")

# Tasks a helper has before it: enough to go on while one is waited for.
_SLOTS = 4


class _Helper(NamedTuple):
    tasks: BinaryIO
    answers: BinaryIO


class Crew(Closing, Generic[T, A]):
    """`work(task, slot)` fills a slot of `slot` bytes as far as it likes; its answer says how far.

    Tasks and answers have to be picklable. An answer, pickled, has to be small against a pipe, of
    64 KiB, so that nobody waits for the other. Raises OSError where there is no memory for them.
    """

    def __init__(self, work: Callable[[T, memoryview], A], number: int, slot: int) -> None:
        self._number, self._slot = number, slot
        self._memory = memoryview(mmap.mmap(-1, number * _SLOTS * slot))
        self._helpers: list[_Helper] = []
        self._stack = ExitStack()
        try:
            for helper in range(number):
                self._start(work, helper)
        except BaseException:
            self.close()
            raise

    def map(self, tasks: Iterable[T]) -> Iterator[tuple[A, memoryview]]:
        """The answer to each task, and its slot, which is right until the next step.

        Raises what `work` raised, or HostError when a helper was killed.
        """
        waiting: deque[int] = deque()
        for number, task in enumerate(tasks):
            if len(waiting) == self._number * _SLOTS:
                yield self._result(waiting.popleft())
            self._send(number, task)
            waiting.append(number)
        while waiting:
            yield self._result(waiting.popleft())

    def close(self) -> None:
        self._stack.close()

    def _send(self, number: int, task: T) -> None:
        try:
            write_all(self._helpers[number % self._number].tasks.fileno(), pickle.dumps(task))
        except BrokenPipeError:
            raise ended() from None

    def _result(self, number: int) -> tuple[A, memoryview]:
        helper, turn = number % self._number, number // self._number
        try:
            answer, error = pickle.load(self._helpers[helper].answers)
        except (EOFError, pickle.UnpicklingError):
            raise ended() from None
        if error is not None:
            raise error
        return answer, self._slots(helper)[turn % _SLOTS]

    def _slots(self, helper: int) -> list[memoryview]:
        starts = [(helper * _SLOTS + turn) * self._slot for turn in range(_SLOTS)]
        return [self._memory[start : start + self._slot] for start in starts]

    def _start(self, work: Callable[[T, memoryview], A], helper: int) -> None:
        with ExitStack() as inner:
            tasks, sending = _pipe()
            inner.enter_context(tasks)
            self._stack.enter_context(sending)
            receiving, answers = _pipe()
            self._stack.enter_context(receiving)
            inner.enter_context(answers)
            pid = forked(lambda: _serve(work, self._slots(helper), tasks, answers))
            self._stack.callback(end, pid)
        self._helpers.append(_Helper(sending, receiving))


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    return os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0)


def _serve(
    work: Callable[[T, memoryview], A], slots: list[memoryview], tasks: BinaryIO, answers: BinaryIO
) -> None:
    turn = 0
    while True:
        answer: tuple[A | None, Exception | None]
        task = pickle.load(tasks)
        try:
            answer = work(task, slots[turn % _SLOTS]), None
        except Exception as error:
            answer = None, error
        write_all(answers.fileno(), pickle.dumps(answer))
        turn += 1
