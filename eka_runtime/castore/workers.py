"""Processes forked to help: they die with their parent, and leave Ctrl-C to him.

`forked` is one of them. `Workers` work on parts, and answer through pipes in the order of the
parts; each takes every n-th part, so nothing has to be handed out. Parts should be many and alike.
Not concurrent.futures: its imports, threads and queues cost more than some stores take to verify.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO, Generic, TypeVar

from eka_runtime.castore.placing import write_all
from eka_runtime.closing import Closing
from eka_runtime.errors import HostError
from eka_runtime.linux.syscalls import die_with_parent

P = TypeVar("P")
R = TypeVar("R")

# Threads of `intake.py`, `packs.py` and `hashing.py`.
_MOVING = ("eka-blobs", "eka-chunks", "eka-pack", "eka-sha256")


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
        import pickle

        for part in range(self._parts):
            try:
                answer, error = pickle.load(self._answers[part % len(self._answers)])
            except (EOFError, pickle.UnpicklingError):
                raise ended() from None
            if error is not None:
                raise error
            yield answer

    def close(self) -> None:
        for pid in self._pids:
            end(pid)
        for pipe in self._answers:
            pipe.close()
        self._pids, self._answers = [], []

    def _start(self, work: Callable[[Sequence[P]], Iterable[R]], parts: Sequence[P]) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._answers.append(os.fdopen(reading, "rb"))
        try:
            self._pids.append(forked(lambda: _serve(work, parts, writing), None))
        finally:
            os.close(writing)


def may_fork() -> bool:
    """Whether nothing is lost by it: there are processors, and no threads but those of ours that
    only move bytes, so none holds a lock that a helper would wait for."""
    if len(os.sched_getaffinity(0)) < 2:
        return False
    others = [thread.name for thread in threading.enumerate()]
    return threading.current_thread() is threading.main_thread() and all(
        name.startswith(_MOVING) for name in others if name != threading.main_thread().name
    )


def forked(life: Callable[[], None], descriptors: Sequence[int] | None) -> int:
    """The process in which `life` goes on; of what it inherits it may use nothing but what is its.

    It keeps these descriptors and the standard ones; all, if it uses SQLite, which shares what it
    knows of a file between connections. `end` it, unless it has ended by itself and was waited for.
    """
    parent = os.getpid()
    # A signal between the fork and what follows would find a helper that takes itself for its
    # parent, or a parent that does not know it yet.
    with _signals_held() as before:
        pid = os.fork()
        if not pid:
            _live(life, before, descriptors, parent)
    return pid


def end(pid: int) -> None:
    # Where SIGCHLD is ignored they are gone when they have ended.
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def ended() -> HostError:
    """The error when a helper answers no more."""
    return HostError(
        "a process that was started to help has ended",
        hint="see whether the host is short of memory",
    )


@contextmanager
def _signals_held() -> Iterator[set[int]]:
    """Yields those that were held before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live(
    life: Callable[[], None],
    held: Iterable[int],
    descriptors: Sequence[int] | None,
    parent: int,
) -> None:
    """The whole life of a helper, which begins with all signals held."""
    status = 1
    try:
        if descriptors is not None:
            # Whoever dies must not leave his locks to us. Objects of his that still mean to close
            # something stay as they are: the number may be one of ours by then.
            gc.disable()
            _close_all_but(descriptors)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        die_with_parent()
        if os.getppid() == parent:
            life()
        status = 0
    except BaseException:
        import traceback

        write_all(2, traceback.format_exc().encode())
    finally:
        # Nothing of the parent's is closed, flushed or cleaned up here.
        os._exit(status)


def _close_all_but(descriptors: Iterable[int]) -> None:
    kept = {0, 1, 2, *descriptors}
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in kept:
            # What read the list is closed already.
            with suppress(OSError):
                os.close(fd)


def _serve(work: Callable[[Sequence[P]], Iterable[R]], parts: Sequence[P], writing: int) -> None:
    import pickle

    for answer in _answers(work, parts):
        write_all(writing, pickle.dumps(answer))


def _answers(
    work: Callable[[Sequence[P]], Iterable[R]], parts: Sequence[P]
) -> Iterator[tuple[R | None, Exception | None]]:
    try:
        for answer in work(parts):
            yield answer, None
    except Exception as error:
        yield None, error
