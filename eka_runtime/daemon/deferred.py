"""Small files that a client adds one after the other, and that wait for the disk together.

An evaluation adds thousands of derivations, one request each, and to wait for the disk each time
would cost it more than everything else. So from the EAGER-th in a row on, an addition is answered
when its file can be read in the client's view and everyone who asks this daemon will be told of it.
It is committed as soon as the client pauses, or anybody asks anything, or there are MANY.

Constraint: what is answered becomes valid, or the client is told otherwise by its next answer. Only
a daemon that is killed forgets, and then its clients notice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from eka_runtime.errors import EkaError
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

EAGER = 4
MANY = 512
_LARGE = 4 << 20  # bytes


class Deferred:
    """The additions of one connection."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = threading.Lock()
        self._waiting: dict[StorePath, tuple[PathInfo, bytes]] = {}
        self._size = 0
        self._failure: EkaError | None = None
        # Paths that stay valid as long as the connection, since it added or touched them.
        self._certain: set[StorePath] = set()

    def get(self, path: StorePath) -> PathInfo | None:
        entry = self._waiting.get(path)
        return entry[0] if entry else None

    def require(self, paths: Iterable[StorePath]) -> None:
        """Raises PathNotFound unless all are valid, or will be by then."""
        new = [path for path in paths if path not in self._certain]
        if new:
            self._store.paths.touch(new)
            self._certain.update(new)

    def add(self, info: PathInfo, data: bytes) -> None:
        """A file that is not executable, with these contents; its references are `require`d."""
        with self._guard:
            self._waiting[info.path] = info, data
            self._size += len(data)
            self._certain.add(info.path)
        if len(self._waiting) >= MANY or self._size >= _LARGE:
            self.commit()

    def commit(self) -> None:
        """From any thread. A failure is kept for `check`."""
        # Also waits for another thread that has just begun.
        with self._guard:
            if not self._waiting:
                return
            entries, self._waiting, self._size = list(self._waiting.values()), {}, 0
            try:
                with self._store.batch() as batch:
                    for _, data in entries:
                        batch.add_blob(data)
                    self._store.commit_paths(batch, [info for info, _ in entries])
            except EkaError as error:
                self._certain.difference_update(info.path for info, _ in entries)
                self._failure = error

    def check(self) -> None:
        """Raises what a commit raised since the last time."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


class Everybody:
    """The additions of all connections of a server."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._members: set[Deferred] = set()

    def join(self, member: Deferred) -> None:
        with self._guard:
            self._members.add(member)

    def leave(self, member: Deferred) -> None:
        """Commits what is left of it. Raises what `check` raises."""
        member.commit()
        with self._guard:
            self._members.discard(member)
        member.check()

    def commit(self) -> None:
        """Whoever looks at the database afterwards sees all that was answered before."""
        with self._guard:
            members = list(self._members)
        for member in members:
            member.commit()
