"""The root file system of a bundle: a handful of directories, mount points and small files.

Planned as data first (`Rootfs`), so that a bundle can be hashed and compared without being written;
`write_entries` makes it so. Constraint: every mount point is made here, because the root is
read-only when the program starts and nobody else should create anything in it.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import stat
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from eka_runtime.errors import ShellMissing, SpecError

Kind = Literal["directory", "file", "symlink", "host"]


class RootfsEntry(NamedTuple):
    """One name below rootfs/; `path` is relative.

    `text` is a file's contents, a symlink's target, or for "host" the file of the host that is
    linked in (or copied where a link is not possible); `digest` names its contents, where known.
    """

    path: str
    kind: Kind
    mode: int
    text: str = ""
    digest: str = ""


class Rootfs:
    """Collects entries; parents come by themselves. What cannot be both raises SpecError."""

    def __init__(self) -> None:
        self._entries: dict[str, RootfsEntry] = {}

    def directory(self, path: str, mode: int | None = None) -> None:
        """Makes a directory, or changes the mode of one when a mode is given."""
        relative = path.strip("/")
        if not relative:
            return
        present = self._entries.get(relative)
        if present is not None and present.kind != "directory":
            raise SpecError(f"`{path}` is needed as a directory, but the bundle has a file there")
        if present is None:
            self.directory(posixpath.dirname(relative))
        if present is None or mode is not None:
            self._entries[relative] = RootfsEntry(relative, "directory", mode or 0o755)

    def file(self, path: str, text: str = "") -> None:
        self._put(RootfsEntry(path.strip("/"), "file", 0o644, text))

    def symlink(self, path: str, target: str) -> None:
        self._put(RootfsEntry(path.strip("/"), "symlink", 0o777, target))

    def host_file(self, path: str, source: str, digest: str) -> None:
        self._put(RootfsEntry(path.strip("/"), "host", 0o755, source, digest))

    def mount_point(self, path: str, directory: bool, mode: int | None = None) -> None:
        """Something to mount on; a file that is already there will do for a file."""
        if directory:
            self.directory(path, mode)
        elif path.strip("/") not in self._entries:
            self.file(path)
        elif self._entries[path.strip("/")].kind != "file":
            raise SpecError(
                f"`{path}` is needed as a file, but the bundle has something else there"
            )

    def has_directory(self, path: str) -> bool:
        entry = self._entries.get(path.strip("/"))
        return path == "/" or (entry is not None and entry.kind == "directory")

    def has(self, path: str) -> bool:
        return path.strip("/") in self._entries

    def directories(self) -> list[str]:
        """All of them, absolute; the root is "/"."""
        found = [f"/{path}" for path, entry in self._entries.items() if entry.kind == "directory"]
        return ["/", *sorted(found)]

    def entries(self) -> tuple[RootfsEntry, ...]:
        """Sorted, parents before children."""
        return tuple(self._entries[path] for path in sorted(self._entries, key=_parts))

    def _put(self, entry: RootfsEntry) -> None:
        if self._entries.get(entry.path, entry) != entry:
            raise SpecError(f"the bundle has two different things at `/{entry.path}`")
        self.directory(posixpath.dirname(entry.path))
        self._entries[entry.path] = entry


def _parts(path: str) -> list[str]:
    return path.split("/")


def write_entries(root: Path, entries: Iterable[RootfsEntry], *, copy: bool = False) -> None:
    """Makes the entries below `root`, whatever the umask. Raises OSError and ShellMissing.

    Files of the host are linked to, or copied where that is not possible, or where it is asked for.
    """
    linked: dict[str, Path] = {}
    for entry in entries:
        place = root / entry.path
        if entry.kind == "directory":
            place.mkdir()
            place.chmod(entry.mode)
        elif entry.kind == "symlink":
            place.symlink_to(entry.text)
        elif entry.kind == "file":
            place.write_text(entry.text, "utf-8", newline="")
            place.chmod(entry.mode)
        else:
            _place_host_file(linked.get(entry.text, Path(entry.text)), place, copy)
            linked[entry.text] = place


def holds_entries(root: Path, entries: Iterable[RootfsEntry]) -> bool:
    """Whether everything that `write_entries` makes is there, to the last byte.

    Of host files, which may be large, only the size is compared. Raises OSError for what cannot be
    read.
    """
    return all(map(partial(_is_there, root), entries))


def _is_there(root: Path, entry: RootfsEntry) -> bool:
    place = root / entry.path
    try:
        status = place.lstat()
        if entry.kind == "symlink":
            return os.readlink(place) == entry.text
        if entry.kind == "host":
            return status.st_size == os.stat(entry.text).st_size
        if stat.S_IMODE(status.st_mode) != entry.mode:
            return False
        if entry.kind == "directory":
            return stat.S_ISDIR(status.st_mode)
        return place.read_bytes() == entry.text.encode()
    except (FileNotFoundError, NotADirectoryError):
        return False


_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES, errno.EOPNOTSUPP)


def _place_host_file(source: Path, place: Path, copy: bool) -> None:
    try:
        real = source.resolve(strict=True)
    except OSError as error:
        raise ShellMissing(
            f"`{source}` is not there any more: {error.strerror}",
            hint="choose another static shell",
        ) from error
    try:
        if not copy:
            os.link(real, place)
            return
    except OSError as error:
        # EPERM is also what fs.protected_hardlinks answers for another user's file.
        if error.errno not in _CANNOT_LINK:
            raise
    shutil.copyfile(real, place)
    place.chmod(0o755)
