"""Packs: small blobs one behind the other in large files, so that each costs no inode.

    PACKS/<12 hex digits>     16 bytes "eka-pack 1", then contents of blobs, and extents

Creating an inode costs more than everything else that is done for a small file, in time and in
space. A pack is only ever appended to, by one process at a time, which holds its flock(2); rows of
the database say what lies where: blobs, and extents, which are stretches of NARs with blobs in them
(`extents.py`). What no row mentions is a gap: a process died before its commit, or the blob was
collected. Gaps become holes (`reclaim`), and a pack without rows is unlinked.
Numbers are random and not used again, so a stale row can never lead to other contents.

Out of scope: rows, and when something may be removed (`eka_runtime/store/sweep.py`).
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from eka_runtime.castore.placing import write_all
from eka_runtime.errors import StoreCorrupt
from eka_runtime.linux.syscalls import punch_hole

if TYPE_CHECKING:
    # 8 ms, which readers of packs do not need to spend.
    from concurrent.futures import Future, ThreadPoolExecutor

Data = bytes | memoryview

HEADER = b"eka-pack 1\n".ljust(16, b"\0")
PACK_MAX = 1 << 28

_CHUNK = 1 << 20
_OPEN_MAX = 64
_IOV_MAX = 1024  # of Linux: writev(2)
_TRIED = 16
_BLOCK = 4096
_DIGITS = 12
_NAME = re.compile(r"[0-9a-f]{12}")


def pack_name(number: int) -> str:
    return f"{number:0{_DIGITS}x}"


def pack_number(name: str) -> int | None:
    """None for what is not the name of a pack."""
    return int(name, 16) if _NAME.fullmatch(name) else None


class PackReader:
    """Reads from packs, of which a few stay open; safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def read(self, pack: int, start: int, size: int) -> bytes:
        """Raises StoreCorrupt when the pack is missing or shorter, otherwise OSError."""
        fd = self._open.get(pack)
        data = os.pread(fd, size, start) if fd is not None else self._other(pack, start, size)
        if len(data) != size:
            raise StoreCorrupt(
                f"{self.directory / pack_name(pack)} ends before byte {start + size}",
                hint="run `eka store verify`",
            )
        return data

    def read_into(self, pack: int, start: int, view: memoryview) -> None:
        """As `read`, for much at a time: new memory for each would cost as much as reading."""
        fd = self._open.get(pack)
        if fd is None:
            # Opens it, and says what is wrong with it.
            self.read(pack, start, 0)
            fd = self._open.get(pack)
        if fd is None:
            view[:] = self.read(pack, start, len(view))
        elif os.preadv(fd, [view], start) != len(view):
            self.read(pack, start, len(view))

    def size(self, pack: int) -> int:
        """Of the whole file; raises OSError."""
        return os.stat(self.directory / pack_name(pack)).st_size

    def close(self) -> None:
        with self._lock:
            for fd in self._open.values():
                os.close(fd)
            self._open = {}

    def _other(self, pack: int, start: int, size: int) -> bytes:
        file = self.directory / pack_name(pack)
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StoreCorrupt(f"{file} is missing", hint="run `eka store verify`") from None
        with self._lock:
            kept = len(self._open) < _OPEN_MAX and self._open.setdefault(pack, fd) == fd
        try:
            return os.pread(fd, size, start)
        finally:
            if not kept:
                os.close(fd)


class Appender:
    """The pack that this process appends to; one for each open store, made when it is needed.

    Safe to use from several threads. Errors of writing are raised by a later `append` or by
    `drain`, as OSErrors; then `reset` has to be called before it can be used again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._writer: ThreadPoolExecutor | None = None
        self._fd = -1
        self._pack = self._end = self._kept = 0
        self._pieces: list[Data] = []  # not written yet, from `_flushed` on
        self._flushed = 0
        self._users = 0
        self._full: list[int] = []
        self._written: Future[None] | None = None
        self._resets = 0

    def enter(self) -> None:
        """Until `leave`, no pack is let go of: what was appended may have no rows yet."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._let_go()

    @property
    def resets(self) -> int:
        """What was appended before the last reset is gone, unless it was kept."""
        return self._resets

    @property
    def failed(self) -> bool:
        written = self._written
        return written is not None and written.done() and written.exception() is not None

    def append(self, pieces: Sequence[Data]) -> tuple[int, list[int]]:
        """The pack, and the offsets at which the pieces will lie once `drain` has returned."""
        with self._lock:
            if self._fd < 0 or self._end >= PACK_MAX:
                self._begin()
            ends = list(accumulate(map(len, pieces), initial=self._end))
            self._end = ends.pop()
            self._pieces += pieces
            if self._end - self._flushed >= _CHUNK:
                self._hand_over()
            return self._pack, ends

    def drain(self) -> None:
        """Waits until all is written, not until it is durable; a reset leaves it where it is."""
        with self._lock:
            self._finish()
            self._kept = self._end

    def keep(self) -> None:
        """Says that rows may mention what was appended so far."""
        with self._lock:
            self._kept = self._end

    def reset(self) -> None:
        """Lets go of the pack, and takes back what was not kept."""
        with self._lock:
            self._resets += 1
            self._pieces = []
            with suppress(OSError):
                self._wait()
            self._leave()
            self._let_go()
            if self._writer is not None:
                self._writer.shutdown()
                self._writer = None

    def _begin(self) -> None:
        self._finish()
        if self._fd >= 0:
            self._full.append(self._fd)
            self._fd = -1
        self._fd, self._pack, self._end = self._known() or self._fresh()
        self._kept = self._flushed = self._end

    def _let_go(self) -> None:
        for fd in self._full:
            os.close(fd)
        self._full = []

    def _leave(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):
                if self._kept < os.fstat(self._fd).st_size:
                    os.ftruncate(self._fd, self._kept)
            os.close(self._fd)
            self._fd = -1
        self._written = None

    def _known(self) -> tuple[int, int, int] | None:
        """A pack with room that nobody is appending to."""
        with os.scandir(self._directory) as entries:
            names = [entry.name for entry in entries if _has_room(entry)]
        for name in names[:_TRIED]:
            with suppress(OSError):
                fd = os.open(self._directory / name, os.O_RDWR | os.O_CLOEXEC)
                if end := _claimed(fd):
                    return fd, int(name, 16), end
                os.close(fd)
        return None

    def _fresh(self) -> tuple[int, int, int]:
        number = int.from_bytes(os.urandom(_DIGITS // 2))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = self._directory / pack_name(number)
        fd = os.open(file, flags, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            write_all(fd, HEADER)
        except BaseException:
            file.unlink(missing_ok=True)
            os.close(fd)
            raise
        return fd, number, len(HEADER)

    def _hand_over(self) -> None:
        self._wait()
        if self._writer is None:
            from concurrent.futures import ThreadPoolExecutor

            self._writer = ThreadPoolExecutor(1, "eka-pack")
        start, pieces = self._taken()
        try:
            self._written = self._writer.submit(_write, self._fd, start, pieces)
        except RuntimeError:
            # No thread is to be had; what was handed over must not be written later, by another.
            self._writer.shutdown(wait=False, cancel_futures=True)
            self._writer = None
            self._flushed, self._pieces = start, pieces
            self._finish()

    def _taken(self) -> tuple[int, list[Data]]:
        """What is to be written now, and where."""
        start, pieces = self._flushed, self._pieces
        self._flushed, self._pieces = self._end, []
        return start, pieces

    def _wait(self) -> None:
        if self._written is not None:
            # Left in place when it fails: every later call has to fail as well.
            self._written.result()
            self._written = None

    def _finish(self) -> None:
        self._wait()
        if self._pieces:
            try:
                _write(self._fd, *self._taken())
            except OSError as error:
                from concurrent.futures import Future

                self._written = Future()
                self._written.set_exception(error)
                raise


def _write(fd: int, start: int, pieces: list[Data]) -> None:
    """Not joined before: copying them would cost as much as hashing them did."""
    size = 0
    for first in range(0, len(pieces), _IOV_MAX):
        some = pieces[first : first + _IOV_MAX]
        wanted = sum(map(len, some))
        written = os.pwritev(fd, some, start + size)
        if written != wanted:
            rest = b"".join(some)[written:]
            os.lseek(fd, start + size + written, os.SEEK_SET)
            write_all(fd, rest)
        size += wanted
    # Makes the kernel begin to write, which the sync would otherwise have to wait for.
    os.posix_fadvise(fd, start, size, os.POSIX_FADV_DONTNEED)


def _has_room(entry: os.DirEntry[str]) -> bool:
    with suppress(FileNotFoundError):
        return pack_number(entry.name) is not None and entry.stat().st_size < PACK_MAX
    return False


def _claimed(fd: int) -> int:
    """Where to append, or 0 when another process has the pack, or it was just unlinked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    status = os.fstat(fd)
    return status.st_size if status.st_nlink and status.st_size >= len(HEADER) else 0


def reclaim(file: Path, used: Iterable[tuple[int, int]]) -> int | None:
    """Gives back what lies between the `used` (start, end), which ascend; returns bytes freed.

    Unlinks a pack of which nothing is used. None when a process is appending to it: some other
    time. `used` is read when no process can.
    """
    try:
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        before = os.fstat(fd).st_blocks
        if not _punch_gaps(fd, used):
            os.unlink(file)
            return before * 512
        return max(0, before - os.fstat(fd).st_blocks) * 512
    except BlockingIOError:
        return None
    finally:
        os.close(fd)


def _punch_gaps(fd: int, used: Iterable[tuple[int, int]]) -> bool:
    """False when there is nothing but gaps, and nothing was done."""
    position, found = len(HEADER), False
    for start, end in used:
        _punch(fd, position, start)
        position, found = max(position, end), True
    if found and position < os.fstat(fd).st_size:
        # Nobody appends now: what is behind the last row was never committed.
        os.ftruncate(fd, position)
    return found


def _punch(fd: int, start: int, end: int) -> None:
    first, last = -(-start // _BLOCK) * _BLOCK, end // _BLOCK * _BLOCK
    if first < last:
        # Where the file system knows no holes, the space waits for the pack to become empty.
        with suppress(OSError):
            punch_hole(fd, first, last - first)
