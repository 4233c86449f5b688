"""Where a binary cache's files are: what every transport can do, and the one for directories.

A cache is a flat name space of files (`nix-cache-info`, `<hash>.narinfo`, `nar/…`). Transports know
nothing of what is in them. Others: `http.py`, `s3.py`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from io import BufferedRandom, FileIO
from pathlib import Path
from typing import BinaryIO, Protocol

from eka_runtime.errors import ServiceError
from eka_runtime.linux.syscalls import syncfs

Fill = Callable[[BinaryIO], object]


class Body(Protocol):
    """The bytes of one file on their way, for one thread."""

    def read(self, size: int) -> bytes:
        """1..`size` bytes, b"" at the end. Raises ServiceError."""

    def close(self) -> None: ...

    def abort(self) -> None:
        """From another thread: whoever reads gets an error soon."""


class Files(Protocol):
    """Methods raise ServiceError when the place cannot be reached or answers wrongly.

    Safe to use from several threads.
    """

    @property
    def name(self) -> str:
        """How messages call the place; without secrets."""

    def read(self, name: str, limit: int) -> bytes | None:
        """A small file whole; None when there is none. A larger one than `limit` is an error."""

    def open(self, name: str) -> Body | None:
        """`name` may be a URL of its own where the transport can follow it."""

    def has(self, name: str) -> bool: ...

    def scratch(self) -> BinaryIO:
        """An empty file to prepare one in, gone when it is closed."""

    def write(self, name: str, data: BinaryIO, size: int, mime: str) -> None:
        """The file appears complete or not at all, in place of an older one.

        `data` is read from its beginning; a scratch file may become the file itself.
        """

    def settle(self) -> None:
        """What was written so far is durable when this returns."""

    def close(self) -> None: ...


def too_large(place: str, name: str, limit: int) -> ServiceError:
    return ServiceError(f"{place}: `{name}` has more than the {limit} bytes that are allowed")


def checked_name(place: str, name: str) -> str:
    """A relative name that stays below the cache. Raises ServiceError for any other."""
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise ServiceError(f"{place}: a narinfo names the file {name[:200]!r}, which is refused")
    return name


class DirectoryFiles:
    """A cache in a directory, as `nix copy --to file:///DIR` makes it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"file://{directory}"

    def read(self, name: str, limit: int) -> bytes | None:
        body = self.open(name)
        if body is None:
            return None
        try:
            data = b""
            while len(data) <= limit and (piece := body.read(limit + 1 - len(data))):
                data += piece
        finally:
            body.close()
        if len(data) > limit:
            raise too_large(self.name, name, limit)
        return data

    def open(self, name: str) -> Body | None:
        place = self._place(name)
        try:
            return _FileBody(open(place, "rb", buffering=0), place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _failure(place, error) from error

    def has(self, name: str) -> bool:
        # Nothing that matters is empty, but for what was being written when the power went.
        try:
            status = self._place(name).stat()
            return stat.S_ISREG(status.st_mode) and status.st_size > 0
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _failure(self._place(name), error) from error

    def scratch(self) -> BinaryIO:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Without a name, so that a process that is killed leaves nothing behind.
            return _Scratch(os.open(self.directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise _failure(self.directory, error) from error
        return tempfile.TemporaryFile(dir=self.directory)

    def write(self, name: str, data: BinaryIO, size: int, mime: str) -> None:
        place = self._place(name)
        fresh = place.with_name(f".{place.name}.{os.urandom(6).hex()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, _Scratch):
                data.link(fresh)
            else:
                data.seek(0)
                with open(fresh, "xb") as out:
                    shutil.copyfileobj(data, out, 1 << 20)
            os.rename(fresh, place)
        except OSError as error:
            raise _failure(place, error) from error
        finally:
            with suppress(OSError):
                os.unlink(fresh)

    def settle(self) -> None:
        try:
            fd = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                syncfs(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise _failure(self.directory, error) from error

    def close(self) -> None:
        pass

    def _place(self, name: str) -> Path:
        return self.directory / checked_name(self.name, name)


class _Scratch(BufferedRandom):
    """A file without a name in the file system of the cache."""

    def __init__(self, fd: int) -> None:
        super().__init__(FileIO(fd, "r+b"))

    def link(self, place: Path) -> None:
        self.flush()
        directory = os.open(place.parent, os.O_PATH | os.O_CLOEXEC)
        try:
            # With a descriptor of a directory, or else Python would not follow the link.
            os.link(f"/proc/self/fd/{self.fileno()}", place.name, dst_dir_fd=directory)
        finally:
            os.close(directory)


class _FileBody:
    def __init__(self, stream: BinaryIO, place: Path) -> None:
        self._stream = stream
        self._place = place

    def read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise _failure(self._place, error) from error

    def close(self) -> None:
        self._stream.close()

    def abort(self) -> None:
        pass


def _failure(place: Path, error: OSError) -> ServiceError:
    return ServiceError(f"`{place}`: {error.strerror}", hint="check the directory of the cache")
