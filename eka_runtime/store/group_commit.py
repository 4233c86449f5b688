"""Commits of several threads that wait for the disk together.

A commit waits for the disk two times, whatever it holds; a server that takes thousands of small
blobs, each of which must be durable before its client is told, would do nothing else. So while one
thread commits, others that come queue up, and the first of them commits for all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from eka_runtime.castore.batch import Batch


class GroupCommit:
    """`commit_all(batches)` makes them durable, all or none; one thread at a time calls it."""

    def __init__(self, commit_all: Callable[[Sequence[Batch]], None]) -> None:
        self._commit_all = commit_all
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._waiting: list[tuple[Batch, Future[None]]] = []

    def commit(self, batch: Batch) -> None:
        """Returns when the batch is durable; raises what the commit that had it raised."""
        done: Future[None] = Future()
        with self._guard:
            self._waiting.append((batch, done))
        with self._turn:
            if not done.done():
                self._commit_waiting()
        done.result()

    def _commit_waiting(self) -> None:
        with self._guard:
            group, self._waiting = self._waiting, []
        try:
            self._commit_all([batch for batch, _ in group])
        except BaseException as error:
            for _, done in group:
                done.set_exception(error)
            return
        for _, done in group:
            done.set_result(None)
