"""Threads that wait for the network, many at once, and report to the one who plans.

Not a ThreadPoolExecutor, because the interpreter waits for the threads of those at its end, and a
far host may never answer: these die with the process.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K")
T = TypeVar("T")


class Report(NamedTuple, Generic[K, T]):
    """What a job returned, or the error it raised."""

    key: K
    result: T | None
    error: BaseException | None


class Crew(Generic[K, T]):
    """At most `size` threads, started as they are needed; a context manager that waits for none.

    Without a name they start faster: a hundred take 0.2 s less on a busy machine, since nobody
    waits until each runs. Their jobs must not use what keeps something for each thread, as a store.
    """

    def __init__(self, size: int, name: str | None = None) -> None:
        self._size = size
        self._name = name
        self._jobs: SimpleQueue[tuple[K, Callable[[], T]] | None] = SimpleQueue()
        self._reports: SimpleQueue[Report[K, T]] = SimpleQueue()
        self._threads = 0
        self.busy = 0

    def __enter__(self) -> Crew[K, T]:
        return self

    def __exit__(self, *error: object) -> None:
        for _ in range(self._threads):
            self._jobs.put(None)

    def submit(self, key: K, job: Callable[[], T]) -> None:
        self.busy += 1
        self._jobs.put((key, job))
        if self._threads < min(self.busy, self._size):
            self._threads += 1
            if self._name is None:
                _thread.start_new_thread(self._run, ())
            else:
                threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def next(self, seconds: float | None = None) -> Report[K, T] | None:
        """The next report, in the order in which jobs end; None when there is none in time."""
        try:
            report = self._reports.get(timeout=seconds)
        except Empty:
            return None
        self.busy -= 1
        return report

    def _run(self) -> None:
        while item := self._jobs.get():
            key, job = item
            try:
                self._reports.put(Report(key, job(), None))
            except BaseException as error:
                self._reports.put(Report(key, None, error))
