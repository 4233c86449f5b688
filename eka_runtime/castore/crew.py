"""Helpers that fill memory which is shared with them: one task, one slot, one answer.

Processes, since what they are for is short and would hand Python's lock to and fro; memory,
since contents would not come through pipes any faster than reading them takes. Answers come that
way as well: a pipe may be as small as a page, and the two would wait for each other. Results come
in the order of the tasks. Like all that is forked (`workers.py`) a helper uses nothing of its
parent's but what its work needs.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import cycle
from struct import Struct
from typing import BinaryIO, Generic, NamedTuple, TypeVar

from eka_runtime.castore.placing import write_all
from eka_runtime.castore.workers import end, ended, forked
from eka_runtime.closing import Closing

T = TypeVar("T")
A = TypeVar("A")

# Tasks a helper has before it: enough to go on while one is waited for.
_SLOTS = 4
# Of memory, before each slot: for the answer.
_ANSWER = 1 << 16
_SIZE = Struct("=I")


class _Helper(NamedTuple):
    tasks: BinaryIO
    sizes: BinaryIO
    """Of the answers."""
    slots: list[memoryview]


class Crew(Closing, Generic[T, A]):
    """`work(task, slot)` fills a slot of `slot` bytes as far as it likes; its answer says how far.

    Tasks and answers have to be picklable, answers to less than 64 KiB. Raises OSError where no
    process or no memory is to be had.
    """

    def __init__(self, work: Callable[[T, memoryview], A], number: int, slot: int) -> None:
        self._number = number
        self._helpers: list[_Helper] = []
        self._stack = ExitStack()
        try:
            for _ in range(number):
                self._start(work, _ANSWER + slot)
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
        helper = self._helpers[number % self._number]
        slot = helper.slots[number // self._number % _SLOTS]
        said = helper.sizes.read(_SIZE.size)
        if len(said) < _SIZE.size:
            raise ended()
        answer, error = pickle.loads(slot[: _SIZE.unpack(said)[0]])
        if error is not None:
            raise error
        return answer, slot[_ANSWER:]

    def _start(self, work: Callable[[T, memoryview], A], size: int) -> None:
        memory = memoryview(mmap.mmap(-1, _SLOTS * size))
        slots = [memory[start : start + size] for start in range(0, len(memory), size)]
        with ExitStack() as inner:
            tasks, sending = _pipe()
            inner.enter_context(tasks)
            self._stack.enter_context(sending)
            receiving, sizes = _pipe()
            self._stack.enter_context(receiving)
            inner.enter_context(sizes)
            descriptors = tasks.fileno(), sizes.fileno()
            pid = forked(lambda: _serve(work, slots, tasks, sizes), descriptors)
            self._stack.callback(end, pid)
        self._helpers.append(_Helper(sending, receiving, slots))


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    return os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0)


def _serve(
    work: Callable[[T, memoryview], A], slots: list[memoryview], tasks: BinaryIO, sizes: BinaryIO
) -> None:
    for slot in cycle(slots):
        answer: tuple[A | None, Exception | None]
        try:
            task = pickle.load(tasks)
        except EOFError:
            return  # the parent has died
        try:
            answer = work(task, slot[_ANSWER:]), None
        except Exception as error:
            answer = None, error
        data = pickle.dumps(answer)
        slot[: len(data)] = data
        write_all(sizes.fileno(), _SIZE.pack(len(data)))
