"""Appends runs to the ledger, where a person asked for one: a line of JSON for each run.

    $XDG_STATE_HOME/eka/runs.jsonl      the newest runs, one line each, mode 0600
    $XDG_STATE_HOME/eka/runs.jsonl.1    those before, up to as much

A line is written by one write(2) to a file opened with O_APPEND, when the program has ended, so
that lines of runs that end at once do not mix. The file is opened before anything starts: the
launcher has a mount namespace of its own afterwards. A ledger that cannot be written is a warning,
never a reason not to run.

CONSTRAINT: imported by warm starts that record, and only by those; so nothing that costs
milliseconds. Out of scope: what a line says (`eka/runs.py`, spec/ledger.md), reading it.
"""

from __future__ import annotations

import fcntl
import posix
import time
from resource import RUSAGE_CHILDREN, getrusage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SIZE_LIMIT = 8 << 20
"""Bytes after which the file is rotated; there are two at most, so the ledger has twice as many."""


def begin(place: bytes, head: bytes) -> Callable[[int], None] | None:
    """What to call with the exit status, or -n for signal n, once the program has ended.

    `head` is an open JSON object of what is known before. None, with a warning, if there can be no
    record.
    """
    started, clock = time.time(), time.monotonic()
    try:
        ledger = _open(place)
    except OSError as error:
        _warn(place, error)
        return None

    def finished(code: int) -> None:
        line = head + _tail(started, time.monotonic() - clock, code)
        try:
            _append(place, ledger, line)
        except OSError as error:
            _warn(place, error)

    return finished


def _tail(started: float, wall: float, code: int) -> bytes:
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(started))
    milliseconds = int(started * 1000) % 1000
    how = f'"signal":{-code}' if code < 0 else f'"status":{code}'
    peak = getrusage(RUSAGE_CHILDREN).ru_maxrss << 10
    text = f',"start":"{when}.{milliseconds:03}Z","wall":{wall:.6f},{how},"peakMemory":{peak}}}\n'
    return text.encode()


def _open(place: bytes) -> int:
    """The ledger to append to, rotated if it was full."""
    while True:
        ledger = _open_file(place)
        if posix.fstat(ledger).st_size < SIZE_LIMIT:
            return ledger
        # Of all who find it full, one renames it: the others wait here and find another file.
        fcntl.flock(ledger, fcntl.LOCK_EX)
        if _is_at(place, ledger):
            posix.rename(place, place + b".1")
        posix.close(ledger)


def _open_file(place: bytes) -> int:
    flags = posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW
    try:
        return posix.open(place, flags, 0o600)
    except FileNotFoundError:
        _make_directories(place.rpartition(b"/")[0])
        return posix.open(place, flags, 0o600)


def _make_directories(path: bytes) -> None:
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_directories(path.rpartition(b"/")[0])
        _make_directories(path)


def _is_at(place: bytes, ledger: int) -> bool:
    try:
        there, ours = posix.stat(place), posix.fstat(ledger)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _append(place: bytes, ledger: int, line: bytes) -> None:
    if posix.fstat(ledger).st_nlink == 0:
        # Rotated away twice while the program ran.
        ledger = _open_file(place)
    posix.write(ledger, line)


def _warn(place: bytes, error: OSError) -> None:
    text = f"warning: this run is not recorded in `{place.decode(errors='replace')}`"
    posix.write(2, f"{text}: {error.strerror}\n".encode())
