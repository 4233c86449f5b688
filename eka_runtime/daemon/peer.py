"""What an operation is given: the store, who asks, and the data that follows the request.

Each connection has a store of its own open. So whatever it adds or touches stays until it ends, and
no longer: that is what Nix calls temporary roots (`castore/epochs.py`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from typing import IO, NamedTuple, Protocol, cast

from eka_runtime.daemon.wire import Values
from eka_runtime.errors import PathNotFound, StoreAccessError
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.tokens import Read, Write
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

_IN_MEMORY = 1 << 20

Handler = Callable[["Peer", Values], Values]


def spool(store: Store) -> IO[bytes]:
    """A file without a name, in memory while it is small; to be closed."""
    made = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=os.fspath(store.layout.tmp))  # noqa: SIM115
    return cast("IO[bytes]", made)


class ClientGone(Exception):
    """The connection is broken: nobody is left to be told. The text is for the server's log."""


class Payload(NamedTuple):
    """`read` gives the data that follows, b"" at its end."""

    read: Read
    drain: Callable[[], None]


class View(Protocol):
    """Where a client reads files."""

    def allows(self, path: StorePath) -> bool:
        """Whether a valid path is there for this client at all."""
        ...

    def show(self, info: PathInfo) -> None:
        """Makes a path readable, with what it refers to, before the client is told of it."""
        ...


class Peer:
    """One client, as long as its connection. `view` is None for one that reads no files here."""

    def __init__(
        self,
        store: Store,
        version: int,
        *,
        trusted: bool,
        view: View | None,
        say: Callable[[str], None],
    ) -> None:
        self.store = store
        self.version = version
        self.trusted = trusted
        self.say = say
        self.payload = Payload(lambda size: b"", lambda: None)
        # Set by an operation whose answer is followed by data.
        self.stream: Callable[[Write], None] | None = None
        self._view = view

    def known(self, path: StorePath) -> PathInfo | None:
        """A client that learns of a path may read its files from then on."""
        if self._view is not None and not self._view.allows(path):
            return None
        info = self.store.paths.get(path)
        if info is not None:
            self.show(info)
        return info

    def info(self, path: StorePath) -> PathInfo:
        """As `known`; raises PathNotFound."""
        if found := self.known(path):
            return found
        raise PathNotFound(
            f"path `{path}` is not valid", hint="add it first, or import it with what it refers to"
        )

    def show(self, info: PathInfo) -> None:
        if self._view is not None:
            self._view.show(info)

    def keep(self, paths: Iterable[StorePath]) -> None:
        """Until the connection ends, whatever is collected. Raises PathNotFound."""
        self.store.paths.touch([self.info(path).path for path in paths])

    def require_trust(self, what: str) -> None:
        """Raises StoreAccessError for the clients of others."""
        if not self.trusted:
            raise StoreAccessError(
                f"only the owner of the store may {what}", hint="use a store of your own"
            )
