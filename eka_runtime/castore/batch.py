"""One addition in flight: how content gets into a store so that nothing is ever half there.

The protocol, whose order is what survives kill -9 and power loss:

1. The bytes of a blob go into a file without a name (O_TMPFILE) in the store's tmp/, which the
   kernel drops when the process dies. Where the file system has none, a random name is used.
2. Mode (0444 or 0555) and mtime (1) are set; then link(2) gives the file its place under blobs/.
   Whoever sees a blob file sees all of it, for ever: blob files are never written again.
3. If the place is taken, the file there is read and compared by digest. The same contents: it is
   used, ours is dropped (another process was first, or one died before step 5). Other contents:
   the blob takes its next name (`LocalBlobs.names`). A file is never trusted for its name alone.
4. `sync()`: one syncfs(2) makes all of it durable, data and names, also of files met in step 3.
5. `flush()`: rows of blobs and directories are inserted by the caller's transaction, together
   with whatever makes them reachable. Only now does anything exist, for all processes at once.

A batch that ends without step 5 leaves at most blob files that no row mentions, which the next
addition of the same contents uses and a collection deletes. Processes need no lock among each
other. A blob that is known, and whose file is there in full length, is never written again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from eka_runtime.castore.blobs import BlobRow, LocalBlobs
from eka_runtime.castore.database import Database
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, DirectoryNode
from eka_runtime.castore.placing import NewFile, Placing, finish, write_all
from eka_runtime.errors import StoreAccessError, StoreCorrupt, StoreError
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


class Batch:
    """Collects new blobs and directories of one database; safe to add to from several threads.

    As a context manager it leaves no temporary file behind. Every method that writes raises
    StoreAccessError, with advice, when the store cannot be written.
    """

    def __init__(
        self, database: Database, blobs: LocalBlobs, tmp: Path, *, unnamed: bool = True
    ) -> None:
        self.blobs = blobs
        self._database = database
        self._tmp = tmp
        self._unnamed = unnamed
        # Plain dicts: each step on them is one atomic operation.
        self._new_blobs: dict[B3Digest, tuple[str, int]] = {}
        self._new_directories: dict[B3Digest, bytes] = {}
        self._damaged: dict[B3Digest, str] = {}
        self._unsynced = False

    def __enter__(self) -> Self:
        with self.access_errors():
            tmp, target = os.fspath(self._tmp), os.fspath(self.blobs.directory)
            self._files = Placing(tmp, target, unnamed=self._unnamed)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._files.close()

    def knows(self, digest: B3Digest, size: int) -> bool:
        """Whether the blob need not be written: in this batch, or committed and in its place.

        For use from the thread that has the batch; the others need not ask.
        """
        if digest in self._new_blobs:
            return True
        row = self.blobs.row(digest)
        if row is None:
            return False
        try:
            if os.stat(row.name, dir_fd=self._files.fd).st_size == size:
                return True
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._access_error(error) from error
        self._damaged[digest] = row.name
        return False

    def add_blob(self, data: bytes, executable: bool = False) -> B3Digest:
        digest = B3Digest.of(data)
        if not self.knows(digest, len(data)):
            self.put(digest, data, executable)
        return digest

    def put(self, digest: B3Digest, data: bytes, executable: bool) -> None:
        """Writes a blob that is not known yet, under its digest as computed by the caller."""
        try:
            file = self._files.create()
            try:
                write_all(file.fd, data)
                self.publish(file, digest, len(data), executable)
            finally:
                self._files.drop(file)
        except OSError as error:
            raise self._access_error(error) from error

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
        if digest not in self._new_directories and not self._has_directory(digest):
            self._new_directories[digest] = directory.encode()
        return directory.node

    def _has_directory(self, digest: B3Digest) -> bool:
        statement = "select 1 from directory where digest = ?"
        return self._database.connection.execute(statement, (digest,)).fetchone() is not None

    def sync(self) -> None:
        """Makes every new file durable; does nothing when there is none.

        Nothing may be added from other threads meanwhile.
        """
        if self._unsynced:
            with self.access_errors():
                syncfs(self._files.fd)
            self._unsynced = False

    def flush(self, conn: sqlite3.Connection) -> None:
        """Inserts the rows so far, inside the caller's transaction; then more may be added.

        Call `sync` before the transaction begins, so that others need not wait for the disk.
        """
        self.sync()
        blobs, self._new_blobs = self._new_blobs, {}
        directories, self._new_directories = self._new_directories, {}
        try:
            # A row that is there already stays: views may refer to the name it has.
            conn.executemany(
                "insert into blob values (?, ?, ?) on conflict (digest) do nothing",
                sorted([(bytes(digest), *place) for digest, place in blobs.items()]),
            )
        except sqlite3.IntegrityError as error:
            raise StoreCorrupt(
                "a new blob took the place of another one whose file is missing",
                hint="run `eka store verify`",
            ) from error
        conn.executemany(
            "insert into directory values (?, ?) on conflict (digest) do nothing",
            sorted(directories.items()),
        )

    def publish(self, file: NewFile, digest: B3Digest, size: int, executable: bool) -> None:
        """Gives a file that is completely written its place and its row; raises OSErrors."""
        finish(file.fd, executable)
        name = self.blobs.name(digest)
        if digest in self._damaged or not self._files.place(file, name):
            if digest in self._new_blobs:
                return
            name = self._place_elsewhere(file, digest, size)
        self._new_blobs[digest] = (name, size)
        self._unsynced = True

    def _place_elsewhere(self, file: NewFile, digest: B3Digest, size: int) -> str:
        damaged = self._damaged.get(digest)
        for name in [damaged] if damaged else self.blobs.names(digest):
            if self._files.place(file, name) or self._files.holds(BlobRow(digest, name, size)):
                return name
        if damaged is None:
            raise StoreError(f"all names of blob {digest} are taken")
        # Its row stays, so there is one place it can have.
        self._files.replace(file, damaged)
        return damaged

    def drop(self, file: NewFile) -> None:
        self._files.drop(file)

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
