"""What an operation is given: the store, who asks, and the data that follows the request.

Each connection has a store of its own open. So whatever it adds or touches stays until it ends, and
no longer: that is what Nix calls temporary roots (`castore/epochs.py`).
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol, cast

from eka_runtime.build.workbench import Workbench
from eka_runtime.daemon.deferred import EAGER, Deferred, Everybody
from eka_runtime.daemon.protocol import Message, Op
from eka_runtime.daemon.wire import Values
from eka_runtime.errors import PathNotFound, StoreAccessError, StoreError
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.tokens import Read, Write
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

if TYPE_CHECKING:
    from eka_runtime.cache.supply import Supply

_IN_MEMORY = 1 << 20
_ADDS = (Op.AddToStore, Op.AddTextToStore)

Handler = Callable[["Peer", Values], Values]


def spool(store: Store) -> IO[bytes]:
    """A file without a name, in memory while it is small; to be closed."""
    import tempfile  # 3 ms that an evaluation of a value never needs

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

    @property
    def confined(self) -> bool:
        """Whether the client is held to what this view allows: see `scope.py`."""
        ...

    def allows(self, path: StorePath) -> bool:
        """Whether a valid path is there for this client at all."""
        ...

    def show(self, info: PathInfo) -> None:
        """Makes a path readable, with what it refers to, before the client is told of it."""
        ...

    def show_file(self, info: PathInfo, data: bytes) -> None:
        """As `show`, for a file that is not executable and not in the store yet."""
        ...


class Peer:
    """One client, as long as its connection. `view` is None for one that reads no files here.

    `tell` sends a message before the answer, from any thread; `gone` is a descriptor that hangs up
    with the client.
    """

    def __init__(
        self,
        store: Store,
        version: int,
        *,
        trusted: bool,
        view: View | None,
        tell: Callable[[Message, Values], None],
        gone: int | None = None,
        workbench: Callable[[], Workbench] | None = None,
        everybody: Everybody | None = None,
        supply: Supply | None = None,
    ) -> None:
        self.store = store
        # Whom a view confines gets what it allows, which is not what caches have.
        self.supply = None if view is not None and view.confined else supply
        self.version = version
        self.trusted = trusted
        self.tell = tell
        # What the client has set: numbers, and settings by name.
        self.options: Values = {}
        self._gone = gone
        self._workbench = workbench
        self.payload = Payload(lambda size: b"", lambda: None)
        # Set by an operation whose answer is followed by data.
        self.stream: Callable[[Write], None] | None = None
        self.view = view
        self._deferred = Deferred(store)
        self._everybody = everybody or Everybody()
        self._everybody.join(self._deferred)
        self._in_a_row = 0

    def known(self, path: StorePath) -> PathInfo | None:
        """A client that learns of a path may read its files from then on."""
        if self.view is not None and not self.view.allows(path):
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

    def bring(self, paths: Iterable[StorePath]) -> None:
        """Fetches those that are not valid, as far as caches have them."""
        if self.supply is not None:
            self.supply.bring(self.store, paths, self.say)

    def begin(self, op: Op) -> None:
        """Before each operation. Raises what became of additions that were answered already."""
        if op in _ADDS:
            self._in_a_row += 1
        elif op is not Op.SetOptions:
            self._in_a_row = 0
            self._everybody.commit()
        self._deferred.check()

    def pause(self) -> None:
        """The client asks nothing for the moment."""
        self._deferred.commit()

    def close(self) -> None:
        """Raises as `begin`."""
        self._everybody.leave(self._deferred)

    def add_file(self, info: PathInfo, data: bytes) -> PathInfo:
        """A small file that is not executable, whose path is content-addressed."""
        known = self._deferred.get(info.path) or self.known(info.path)
        if known is not None:
            self._deferred.require([info.path])
            return known
        self._deferred.require(info.references)
        added = info._replace(registered=int(time.time()))
        if self.view is not None:
            self.view.show_file(added, data)
        self._deferred.add(added, data)
        if self._in_a_row <= EAGER:
            self._deferred.commit()
            self._deferred.check()
        return added

    def say(self, text: str) -> None:
        self.tell(Message.NEXT, {"text": text})

    def workbench(self) -> Workbench:
        """For builds, as the client wants them. Raises StoreError where nothing is built."""
        if self._workbench is None:
            raise StoreError("nothing is built here")
        numbers = {name: value for name, value in self.options.items() if name != "overrides"}
        return self._workbench().asked(numbers, self.options.get("overrides", {}))

    @contextmanager
    def watched(self, end: Callable[[], None]) -> Iterator[None]:
        """Calls `end` when the client goes meanwhile, from another thread."""
        if self._gone is None:
            yield
            return
        reading, writing = os.pipe()
        thread = threading.Thread(target=_watch, args=(self._gone, reading, end), daemon=True)
        thread.start()
        try:
            yield
        finally:
            os.close(writing)
            thread.join()
            os.close(reading)

    def show(self, info: PathInfo) -> None:
        if self.view is not None:
            self.view.show(info)

    def keep(self, paths: Iterable[StorePath]) -> None:
        """Until the connection ends, whatever is collected. Raises PathNotFound."""
        self._deferred.require([self.info(path).path for path in paths])

    def require_trust(self, what: str) -> None:
        """Raises StoreAccessError for the clients of others."""
        if not self.trusted:
            raise StoreAccessError(
                f"only the owner of the store may {what}", hint="use a store of your own"
            )


def _watch(client: int, over: int, end: Callable[[], None]) -> None:
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    poll.register(over, 0)
    if over not in dict(poll.poll()):
        end()
