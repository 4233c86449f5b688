"""One addition in flight: how content gets into a store so that nothing is ever half there.

The protocol, whose order is what survives kill -9 and power loss:

1. The bytes of a large blob go into a file without a name (O_TMPFILE) in the store's tmp/, which
   the kernel drops when the process dies; where the file system has none, a random name is used.
   Mode (0444 or 0555) and mtime (1) are set; then link(2) gives the file its place under blobs/,
   which is nobody else's (`LocalBlobs.new_name`). Small blobs are appended to the process's own
   pack (`packs.py`). Blob files and packed bytes are never written again.
2. `sync()`: one syncfs(2) makes all of it durable, data and names.
3. `flush()`: rows of blobs and directories are inserted by the caller's transaction, together
   with whatever makes them reachable. Only now does anything exist, for all processes at once.

Whoever finds a blob or a directory in the database need not write it again. It cannot be removed
for good before he leaves the epoch in which he came (`epochs.py`), but it may be marked as dead by
a collection between his look and his commit: `flush` takes such marks away. Of two processes that
write the same blob at once, the second to commit drops its copy.

A batch that ends without step 3 takes its files back. Where it is killed, it leaves at most files
and packed bytes that no row mentions, which the next collection removes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from eka_runtime.castore.blobs import PACKED_MAX, LocalBlobs
from eka_runtime.castore.database import AT_ONCE, Database, of_digests
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.extents import Extent, record
from eka_runtime.castore.file_writer import FileWriter
from eka_runtime.castore.node import Directory, DirectoryNode
from eka_runtime.castore.placing import NewFile, Placing, finish, write_all
from eka_runtime.castore.workers import may_fork
from eka_runtime.errors import StoreAccessError, StoreError
from eka_runtime.linux.syscalls import syncfs

# Direct I/O wants sizes and offsets in multiples of the device's block, which this covers.
DIRECT_ALIGNMENT = 4096

_HINTS = {
    errno.ENOSPC: "free some space on the store's file system and try again",
    errno.EDQUOT: "free some space, your disk quota is used up",
    errno.EROFS: "use a store on a writable file system (`--store DIR`)",
    errno.EACCES: "use a store that you own (`--store DIR`)",
    errno.EPERM: "use a store that you own (`--store DIR`)",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
}

_OFFERS_MAX = AT_ONCE
_OFFERED_MAX = 1 << 20

_INSERT = """
    insert into blob (digest, size, name, pack, start) values (?, ?, ?, ?, ?)
    on conflict (digest) do nothing
"""
# Half the time for most of what comes: each value that is bound costs, NULL above all.
_INSERT_PACKED = """
    insert into blob (digest, size, pack, start) values (?, ?, ?, ?)
    on conflict (digest) do nothing
"""
_FIND = of_digests("digest, name, pack, start + coalesce(stored, size)", "blob") + (
    " and dead is null"
)
_INSERT_DIRECTORY = """
    insert into directory (digest, data) values (?, ?)
    on conflict (digest) do update set dead = null, data = excluded.data
"""


class _Place(NamedTuple):
    """Where a new blob was put: `name` is None for a packed one."""

    size: int
    name: str | None
    pack: int | None
    start: int | None


class Batch:
    """Collects new blobs and directories of one database; safe to add to from several threads.

    As a context manager it leaves no file behind that is not committed. Every method that writes
    raises StoreAccessError, with advice, when the store cannot be written. What is in `distrust` is
    written anew if it comes, whatever the store has.
    """

    def __init__(
        self,
        database: Database,
        blobs: LocalBlobs,
        tmp: Path,
        *,
        unnamed: bool = True,
        distrust: Iterable[B3Digest] = (),
    ) -> None:
        self.blobs = blobs
        self._database = database
        self._tmp = tmp
        self._unnamed = unnamed
        self._epoch = database.epoch()
        self._resets = blobs.appender.resets
        # Small blobs of which it is not known yet whether they are known.
        self._offered: dict[B3Digest, bytes] = {}
        self._offered_size = 0
        self._packs: dict[int, int] = {}  # sizes, as last seen
        # Plain dicts and sets: each step on them is one atomic operation.
        self._new_blobs: dict[B3Digest, _Place] = {}
        self._new_directories: dict[B3Digest, bytes] = {}
        self._known_blobs: set[B3Digest] = set()
        self._known_directories: set[B3Digest] = set()
        self._extents: dict[B3Digest, Sequence[Extent]] = {}
        self._damaged = set(distrust)
        self._unsynced = self._in_doubt = False
        self._find_blob = database.finder("select 1 from blob where digest = ? and dead is null")
        self._find_directory = database.finder(
            "select 1 from directory where digest = ? and dead is null"
        )

    def __enter__(self) -> Self:
        with self.access_errors():
            tmp, target = os.fspath(self._tmp), os.fspath(self.blobs.directory)
            self._files = Placing(tmp, target, unnamed=self._unnamed)
        self.blobs.appender.enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._in_doubt:
            # A commit that failed may have reached the disk all the same.
            self.blobs.appender.keep()
        else:
            self._drop_files(self._new_blobs.values())
        self._files.close()
        self.blobs.appender.leave()
        if self.blobs.appender.failed:
            self.blobs.appender.reset()

    def knows(self, digest: B3Digest, size: int) -> bool:
        """Whether the blob need not be written: in this batch, or committed and in its place.

        For use from the thread that has the batch; the others need not ask.
        """
        if digest in self._new_blobs or digest in self._known_blobs or digest in self._offered:
            return True
        if digest in self._damaged or self._find_blob(digest) is None:
            return False
        if size >= PACKED_MAX and not self._is_in_place(digest, size):
            self._damaged.add(digest)
            return False
        self._known_blobs.add(digest)
        return True

    def _is_in_place(self, digest: B3Digest, size: int) -> bool:
        row = self.blobs.row(digest)
        if row is None or not row.name:
            return row is not None
        try:
            return os.stat(row.name, dir_fd=self._files.fd).st_size == size
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._access_error(error) from error

    def add_blob(self, data: bytes, executable: bool = False) -> B3Digest:
        digest = B3Digest.of(data)
        if len(data) < PACKED_MAX:
            self.offer(digest, data)
        elif not self.knows(digest, len(data)):
            self.put(digest, data, executable)
        return digest

    def offer(self, digest: B3Digest, data: bytes) -> None:
        """Takes a small blob, unless it is known; from the thread that has the batch.

        Many are looked up and written at once, which costs a fraction of doing it one by one.
        """
        if digest in self._new_blobs or digest in self._known_blobs or digest in self._offered:
            return
        self._offered[digest] = data
        self._offered_size += len(data)
        if len(self._offered) >= _OFFERS_MAX or self._offered_size >= _OFFERED_MAX:
            self._take_offers()

    def _take_offers(self) -> None:
        offered = self._offered
        known = self._known_among(list(offered))
        new = [(digest, data) for digest, data in offered.items() if digest not in known]
        if new:
            with self.access_errors():
                pack, starts = self.blobs.appender.append([data for _, data in new])
            self._unsynced = True
            for (digest, data), start in zip(new, starts, strict=True):
                self._new_blobs[digest] = _Place(len(data), None, pack, start)
        # Not before: after an error, `sync` has to meet them again.
        self._offered, self._offered_size = {}, 0

    def _known_among(self, digests: Sequence[B3Digest]) -> set[bytes]:
        """Of up to AT_ONCE small blobs, those that are in the database, and in their places."""
        known = set()
        for digest, *place in self._database.look_up(_FIND, digests):
            if digest in self._damaged or not self._is_whole(*place):
                self._damaged.add(B3Digest(digest))
            else:
                known.add(digest)
        self._known_blobs.update(map(B3Digest, known))
        return known

    def unknown(self, digests: Iterable[B3Digest]) -> set[B3Digest]:
        """Small blobs that have to be written; from the thread that has the batch."""
        unknown = set(digests).difference(self._new_blobs, self._known_blobs, self._offered)
        every = list(unknown)
        for first in range(0, len(every), AT_ONCE):
            unknown -= self._known_among(every[first : first + AT_ONCE])
        return unknown

    def add_packed(
        self, pieces: Sequence[memoryview], new: Iterable[tuple[B3Digest, int, int]]
    ) -> tuple[int, int]:
        """Takes bytes as they are; digest, begin and size of the unknown blobs that lie in them.

        Returns the pack and where in it they begin. As `unknown`, from the thread that has the
        batch; nothing may change the bytes any more.
        """
        with self.access_errors():
            pack, [start, *_] = self.blobs.appender.append(pieces)
        self._unsynced = True
        for digest, begin, size in new:
            self._new_blobs[digest] = _Place(size, None, pack, start + begin)
        return pack, start

    def add_extents(self, node: B3Digest, extents: Sequence[Extent]) -> None:
        """Where the NAR of a directory of this batch lies, if it is new."""
        self._extents[node] = extents

    def _is_whole(self, name: str | None, pack: int, end: int) -> bool:
        """Whether the pack reaches as far as it should; files are looked at in `knows`."""
        if name is None and end > self._packs.get(pack, 0):
            with self.access_errors(), suppress(FileNotFoundError):
                self._packs[pack] = self.blobs.packs.size(pack)
        return name is not None or end <= self._packs.get(pack, 0)

    def put(self, digest: B3Digest, data: bytes | memoryview, executable: bool) -> None:
        """Writes a large blob that is not known yet, under its digest as computed by the caller."""
        try:
            file = self._files.create()
            try:
                write_all(file.fd, data)
                # Dirty pages stay, but the kernel begins to write, which `sync` would wait for.
                os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
                self.publish(file, digest, len(data), executable)
            finally:
                self._files.drop(file)
        except OSError as error:
            raise self._access_error(error) from error

    def file_writer(self) -> FileWriter | None:
        """Who writes large blobs for which there is a `reserve`; None where nobody can be had."""
        if self._files.leaves_nothing and may_fork():
            with suppress(OSError):
                return FileWriter(os.fspath(self._tmp), os.fspath(self.blobs.directory))
        return None

    def reserve(self, digest: B3Digest, size: int) -> str:
        """The name for a large blob that is not known yet, and that is written before `sync`."""
        name = self.blobs.new_name(digest)
        self._new_blobs[digest] = _Place(size, name, None, None)
        self._unsynced = True
        return name

    def writer(self, executable: bool, *, direct: bool = False) -> BlobWriter:
        """For a blob that comes in pieces; the caller closes it.

        With `direct`, pieces bypass the page cache; they must be aligned to DIRECT_ALIGNMENT in
        memory, and in size but for the last one.
        """
        with self.access_errors():
            file = self._files.create(os.O_DIRECT if direct else 0)
        return BlobWriter(self, file, executable)

    def add_directory(self, directory: Directory) -> DirectoryNode:
        digest = directory.digest
        if digest not in self._new_directories and digest not in self._known_directories:
            if digest not in self._damaged and self._find_directory(digest):
                self._known_directories.add(digest)
            else:
                self._new_directories[digest] = directory.encode()
        return directory.node

    def keep_only(self, wanted: Set[B3Digest]) -> set[B3Digest]:
        """Forgets all that is new but these, and new directories below them; returns what is left.

        Whoever lacks a directory cannot tell which ones he lacks below it.
        """
        if self._offered:
            self._take_offers()
        unwanted = [digest for digest in self._new_blobs if digest not in wanted]
        self._drop_files([self._new_blobs.pop(digest) for digest in unwanted])
        new, self._new_directories = self._new_directories, {}
        pending = [digest for digest in new if digest in wanted]
        while pending:
            data = new.pop(pending.pop(), None)
            if data is not None:
                directory = Directory.decode(data)
                self._new_directories[directory.digest] = data
                children = [node for _, node in directory.entries]
                pending += [one.digest for one in children if isinstance(one, DirectoryNode)]
        return {*self._new_blobs, *self._new_directories}

    def sync(self) -> None:
        """Makes everything new durable; does nothing when there is nothing.

        Nothing may be added from other threads meanwhile.
        """
        sync_all([self])

    def _write_out(self) -> None:
        if self._offered:
            self._take_offers()
        if self._unsynced:
            with self.access_errors():
                self.blobs.appender.drain()
                if self.blobs.appender.resets != self._resets:
                    raise OSError(errno.EIO, "another addition of this process failed")

    def flush(self, conn: sqlite3.Connection, *, loose: bool = False) -> None:
        """Inserts the rows so far, inside the caller's transaction.

        Call `sync` before the transaction begins, so that others need not wait for the disk. With
        `loose`, nothing makes them reachable yet: collections spare them for a while.
        """
        self.sync()
        self._insert_blobs(conn)
        conn.executemany(_INSERT_DIRECTORY, sorted(self._new_directories.items()))
        for node in self._extents.keys() & self._new_directories.keys():
            record(conn, node, self._extents[node])
        self._rescue(conn)
        if loose:
            self._spare(conn, int(time.time()))
        self._in_doubt = True

    def committed(self) -> None:
        """To be called when the transaction has ended well; then more may be added."""
        self._known_blobs.update(self._new_blobs)
        self._known_directories.update(self._new_directories)
        self._new_blobs, self._new_directories, self._extents = {}, {}, {}
        self._in_doubt = False
        self.blobs.appender.keep()

    def _insert_blobs(self, conn: sqlite3.Connection) -> None:
        # Comparing pairs takes twice as long.
        new = [(digest, self._new_blobs[digest]) for digest in sorted(self._new_blobs)]
        before = conn.total_changes
        packed = [
            (digest, size, pack, start) for digest, (size, name, pack, start) in new if name is None
        ]
        conn.executemany(_INSERT_PACKED, packed)
        if len(packed) < len(new):
            files = [(digest, *place) for digest, place in new if place.name is not None]
            conn.executemany(_INSERT, files)
        if conn.total_changes - before < len(new):
            self._drop_files(
                [place for digest, place in new if not self._wins(conn, digest, place)]
            )

    def _wins(self, conn: sqlite3.Connection, digest: B3Digest, place: _Place) -> bool:
        """Whether the row leads to our copy; makes it do so if the other one is dead or damaged."""
        row = conn.execute(
            "select size, name, pack, start, dead from blob where digest = ?", (digest,)
        ).fetchone()
        if _Place(*row[:4]) == place:
            return True
        if row[4] is None and digest not in self._damaged:
            return False
        # The other copy, which somebody may be reading, is left to the next collection.
        conn.execute(
            "update blob set size = ?, name = ?, pack = ?, start = ?, stored = null, dead = null"
            " where digest = ?",
            (*place, digest),
        )
        return True

    def _spare(self, conn: sqlite3.Connection, since: int) -> None:
        """What was there already, or came from another process meanwhile, may lose the path that
        needs it before ours comes; what is new has none."""
        blobs = *self._known_blobs, *self._new_blobs
        directories = *self._known_directories, *self._new_directories
        for table, ours in (("blob", blobs), ("directory", directories)):
            conn.executemany(
                f"update {table} set loose = ?, dead = null where digest = ?",
                [(since, digest) for digest in ours],
            )

    def _rescue(self, conn: sqlite3.Connection) -> None:
        """Takes away the marks that a collection made since we saw what we need."""
        epoch = self._database.epoch()
        if epoch == self._epoch:
            return
        for table, known in (("blob", self._known_blobs), ("directory", self._known_directories)):
            conn.executemany(
                f"update {table} set dead = null where digest = ? and dead is not null",
                [(digest,) for digest in known],
            )

    def publish(self, file: NewFile, digest: B3Digest, size: int, executable: bool) -> None:
        """Gives a file that is completely written its place and its row; raises OSErrors."""
        finish(file.fd, executable)
        name = self.blobs.new_name(digest)
        while not self._files.place(file, name):
            name = self.blobs.new_name(digest)
        place = _Place(size, name, None, None)
        if self._new_blobs.setdefault(digest, place) != place:
            self._files.remove(name)
        self._unsynced = True

    def adopts(self, fd: int) -> bool:
        """Whether a file of the caller's can become a blob: it is on the same file system, and has
        nothing beside its contents."""
        return self._files.adopts(fd)

    def adopt(self, fd: int, digest: B3Digest, size: int, executable: bool) -> None:
        """Makes a blob of a file that nobody will ever write to again, without copying it."""
        with self.access_errors():
            self.publish(NewFile(fd, ""), digest, size, executable)

    def drop(self, file: NewFile) -> None:
        self._files.drop(file)

    def _drop_files(self, places: Iterable[_Place]) -> None:
        for place in places:
            if place.name is not None:
                with suppress(OSError):
                    self._files.remove(place.name)

    @contextmanager
    def access_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._access_error(error) from error

    def _access_error(self, error: OSError) -> StoreAccessError:
        where = self.blobs.directory.parent
        hint = _HINTS.get(error.errno or 0, "check the store's directory and its file system")
        return StoreAccessError(f"cannot write to the store {where}: {error.strerror}", hint=hint)


def sync_all(batches: Sequence[Batch]) -> None:
    """`Batch.sync` for several batches of one store, which wait for the disk only once."""
    for batch in batches:
        batch._write_out()
    unsynced = [batch for batch in batches if batch._unsynced]
    for batch in unsynced[:1]:
        with batch.access_errors():
            syncfs(batch._files.fd)
    for batch in unsynced:
        batch._unsynced = False


class BlobWriter:
    """One blob in the making, used by one thread at a time; gone unless `finish` was called.

    After an error nothing can be finished, whatever is written later.
    """

    def __init__(self, batch: Batch, file: NewFile, executable: bool) -> None:
        self._batch = batch
        self._file = file
        self._executable = executable
        self._size = 0
        self._open = self._intact = True
        self._direct = bool(fcntl.fcntl(file.fd, fcntl.F_GETFL) & os.O_DIRECT)

    def write(self, data: memoryview) -> None:
        with self._growing(len(data)):
            if self._direct and len(data) % DIRECT_ALIGNMENT:
                self._go_through_cache()
            try:
                write_all(self._file.fd, data)
            except OSError as error:
                # A device that wants more than DIRECT_ALIGNMENT says so only now.
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._go_through_cache()
                write_all(self._file.fd, data)
            if not self._direct:
                # Dirty pages cannot be dropped, but this makes the kernel begin to write them,
                # which `sync` would otherwise have to wait for.
                os.posix_fadvise(self._file.fd, self._size, len(data), os.POSIX_FADV_DONTNEED)

    def copy_from(self, source_fd: int, size: int) -> None:
        """Begins the blob with the first `size` bytes of another blob's file."""
        with self._growing(size):
            self._go_through_cache()
            done = 0
            while done < size:
                count = os.copy_file_range(source_fd, self._file.fd, size - done, done)
                if not count:
                    raise OSError(errno.EIO, "a blob file became shorter")
                done += count

    def finish(self, digest: B3Digest) -> None:
        """Puts the blob in its place under the digest as computed by the caller."""
        if not self._intact:
            raise StoreError(f"blob {digest} was not written completely")
        with self._batch.access_errors():
            self._batch.publish(self._file, digest, self._size, self._executable)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._batch.drop(self._file)

    @contextmanager
    def _growing(self, size: int) -> Iterator[None]:
        intact, self._intact = self._intact, False
        with self._batch.access_errors():
            yield
        self._size += size
        self._intact = intact

    def _go_through_cache(self) -> None:
        flags = fcntl.fcntl(self._file.fd, fcntl.F_GETFL)
        fcntl.fcntl(self._file.fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self._direct = False
