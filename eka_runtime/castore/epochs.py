"""Who is at work since when: what lets a collection delete beside everything else that goes on.

    EPOCHS/<number>       empty; flock(2) held shared by every process that came in that epoch

The present epoch is a number in the database. Whoever opens a store holds the lock of the epoch in
which he came, until he leaves; the kernel lets go for those who are killed. A collection that marks
something as dead ends the epoch in the same transaction. What was marked may be removed for good
once no one is left who came in that epoch or before: all others have seen the mark, and a mark
means "as if it were not there" to those who write. Nobody ever waits for anybody.

Out of scope: what is marked and removed (`eka_runtime/store/gc.py`).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from eka_runtime.castore.database import Database
from eka_runtime.closing import Closing


class Hold(Closing):
    """Keeps everything that is there now from being removed; a context manager.

    Where the lock cannot be taken nothing is held: on read-only media nobody deletes. Who may only
    read the store of somebody else, who collects right now, may find things gone.
    """

    def __init__(self, directory: Path, database: Database) -> None:
        self._fd = -1
        while True:
            self.epoch = database.epoch()
            if not self._lock(directory / str(self.epoch)) or database.epoch() == self.epoch:
                return
            # The epoch ended between the two looks; a collection may not have seen our lock.
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock(self, file: Path) -> bool:
        try:
            self._fd = _opened(file)
        except OSError:
            return False
        fcntl.flock(self._fd, fcntl.LOCK_SH)
        return True


def _opened(file: Path) -> int:
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


def oldest(directory: Path, before: int) -> int:
    """The oldest epoch in which somebody came who is still at work; `before` if there is none.

    Looks at epochs below `before`, which must have ended, and forgets those that nobody is left of.
    """
    numbers = (int(name) for name in os.listdir(directory) if name.isdecimal())
    for number in sorted(numbers):
        if number < before and not _forget(directory / str(number)):
            return number
    return before


def _forget(file: Path) -> bool:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            os.unlink(file)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
