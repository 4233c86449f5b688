"""Roots: what a collection has to keep, with everything that it refers to.

    kind     lives                                       keeps
    named    until it is removed                         one path
    link     while the symbolic link at `place` leads    the path that it leads to
             into /nix/store
    file     while there is a file at `place`            the paths that it names (a script's lock)
    bundle   while there is a bundle at `place`          the closure that it was made from
    run      while a process has flock(2) on `place`,    the closure that it was made from
             the directory of a cached bundle

Rows of the store's database, so adding one is atomic. Out of scope: collecting (`gc.py`); paths
that somebody is just working with, which epochs protect (`castore/epochs.py`).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from eka_runtime.castore.database import Database
from eka_runtime.errors import InvalidStorePath, StoreError, UsageError
from eka_runtime.nix.path import STORE_DIR, StorePath
from eka_runtime.store.bundles import claim

Kind = Literal["named", "link", "file", "bundle", "run"]

SCHEMA = (
    """
    CREATE TABLE root (
        name TEXT PRIMARY KEY,
        kind TEXT NOT NULL CHECK (kind IN ('named', 'link', 'file', 'bundle', 'run')),
        place BLOB NOT NULL,
        paths TEXT NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._?=/@-]{0,254}")
_IN_FILES = re.compile(rb"/nix/store/([0-9a-df-np-sv-z]{32}-[A-Za-z0-9+._?=-]{1,211})")
_FILE_MAX = 1 << 24
_LINKS_MAX = 40  # as the kernel's MAXSYMLINKS


class Root(NamedTuple):
    """`place` is an absolute path of the host, b"" for a named root.

    `paths` are those it was made with; none for links and files, which are looked at when it
    matters.
    """

    name: str
    kind: Kind
    place: bytes
    paths: tuple[StorePath, ...]


class Roots:
    """The roots of one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> Iterator[Root]:
        """Ordered by name."""
        rows = self._database.connection.execute("SELECT * FROM root ORDER BY name").fetchall()
        for name, kind, place, paths in rows:
            yield Root(name, kind, place, tuple(map(StorePath.from_base, paths.split())))

    def add(self, root: Root) -> None:
        """No write when it is there already. Raises UsageError when its name means another one."""
        row = (root.name, root.kind, root.place, " ".join(path.base for path in root.paths))
        if not NAME.fullmatch(root.name):
            raise UsageError(
                f"`{root.name}` is not a name for a root",
                hint="use letters, digits and any of +._?=/@-",
            )
        statement = "SELECT * FROM root WHERE name = ?"
        if self._database.connection.execute(statement, row[:1]).fetchone() == row:
            return
        with self._database.transaction() as conn:
            other = conn.execute(statement, row[:1]).fetchone()
            if other and root.kind == "named":
                raise UsageError(
                    f"there is a root `{root.name}` already, which keeps {other[3] or other[2]}",
                    hint="give another name: `eka store root add PATH NAME`",
                )
            conn.execute("INSERT OR REPLACE INTO root VALUES (?, ?, ?, ?)", row)

    def remove(self, name: str) -> bool:
        """Whether there was one."""
        with self._database.transaction() as conn:
            return conn.execute("DELETE FROM root WHERE name = ?", (name,)).rowcount > 0


def kept(root: Root) -> tuple[StorePath, ...] | None:
    """What a root keeps now; None when it does not live any more.

    Raises StoreError when that cannot be told.
    """
    try:
        return _kept(root)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(
            f"cannot tell whether the root `{root.name}` is alive:"
            f" {os.fsdecode(root.place)}: {error.strerror}",
            hint=f"make it readable, or remove the root: `eka store root remove {root.name}`",
        ) from error


def _kept(root: Root) -> tuple[StorePath, ...] | None:
    if root.kind == "named":
        return root.paths
    if root.kind == "link":
        path = path_behind(root.place)
        return path and (path,)
    if root.kind == "file":
        return tuple(paths_in(root.place))
    if root.kind == "bundle":
        os.stat(os.path.join(root.place, b"config.json"))
        return root.paths
    lock = claim(root.place)
    if lock is None:
        return root.paths
    os.close(lock)
    return None


def path_behind(link: bytes) -> StorePath | None:
    """The store path that a symbolic link leads to, through others; raises OSError."""
    for _ in range(_LINKS_MAX):
        try:
            link = os.path.join(os.path.dirname(link), os.readlink(link))
        except OSError as error:
            if error.errno == errno.EINVAL:  # no symbolic link: readlink(2)
                return None
            raise
        if match := _IN_FILES.match(link):
            return _valid(match[1])
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), link)


def paths_in(file: bytes) -> Iterable[StorePath]:
    """The store paths that a text names; raises OSError."""
    # A fifo that took the place of a file must not make a collection wait for a writer.
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", file)
        data = stream.read(_FILE_MAX)
    return sorted({path for found in _IN_FILES.findall(data) if (path := _valid(found))})


def _valid(base: bytes) -> StorePath | None:
    # Some names that the pattern takes no store path can have, such as `..`.
    with suppress(InvalidStorePath):
        return StorePath.from_base(base.decode())
    return None


def root_for(target: str, name: str | None) -> Root:
    """The root that a person means: a store path, a link to one, or a file that names some."""
    if target.startswith(STORE_DIR + "/"):
        path = StorePath.parse(target)
        return Root(name or path.name, "named", b"", (path,))
    link = link_root(target)
    place = link.place
    try:
        if os.path.islink(place):
            if path_behind(place) is None:
                raise UsageError(f"`{target}` does not lead into {STORE_DIR}")
            return link._replace(name=name or link.name)
        if not list(paths_in(place)):
            raise UsageError(f"`{target}` names no store path")
    except OSError as error:
        raise UsageError(
            f"`{target}` cannot be a root: {error.strerror}",
            hint="give a store path, a symbolic link to one, or a file that names some",
        ) from error
    return Root(name or _name("file", place), "file", place, ())


def link_root(place: str) -> Root:
    """For a link that may still have to be made."""
    link = os.fsencode(os.path.join(os.path.realpath(os.path.dirname(place) or "."), ""))
    link += os.fsencode(os.path.basename(place))
    return Root(_name("link", link), "link", link, ())


def bundle_root(place: Path, paths: Iterable[StorePath], *, running: bool) -> Root:
    """For a bundle of somebody's own, or for a cached one, which lives while something runs."""
    kind: Kind = "run" if running else "bundle"
    absolute = os.fsencode(os.path.realpath(place))
    return Root(_name(kind, absolute), kind, absolute, tuple(sorted(paths)))


def _name(kind: Kind, place: bytes) -> str:
    import hashlib

    return f"{kind}/{hashlib.sha256(place).hexdigest()[:20]}"
