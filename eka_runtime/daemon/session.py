"""One connection: handshake, then one operation after the other until the client goes.

Whatever a request was, the connection stays usable if it can: an operation that fails is answered
with an error when its data was read to the end, and an unknown one is, too. Only bytes that make no
sense end it, since nobody can tell where the next request would begin.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from eka_runtime.build.workbench import Workbench
from eka_runtime.daemon import additions, building, queries, upkeep
from eka_runtime.daemon.deferred import Everybody
from eka_runtime.daemon.peer import ClientGone, Handler, Payload, Peer, View, spool
from eka_runtime.daemon.protocol import (
    CLIENT_MAGIC,
    MAJOR,
    MESSAGES,
    MINOR,
    OLDEST,
    REPLIES,
    REQUESTS,
    SERVER_MAGIC,
    Message,
    Op,
    error_message,
    payload,
)
from eka_runtime.daemon.protocol import Payload as Kind
from eka_runtime.daemon.scope import check_scope
from eka_runtime.daemon.wire import TEXT, Frames, Values, read_fields, write_fields
from eka_runtime.errors import EkaError, NarError
from eka_runtime.nix.nar import NarWriter, parse_nar
from eka_runtime.nix.tokens import NarReader, Read, Write, u64
from eka_runtime.store.store import Store

if TYPE_CHECKING:
    from eka_runtime.cache.supply import Supply

HANDLERS: dict[Op, Handler] = {
    **queries.HANDLERS,
    **additions.HANDLERS,
    **upkeep.HANDLERS,
    **building.HANDLERS,
}
# A client before 2.6 takes the version for that of a Nix, so it begins like one.
_VERSION = "2.18.0 (eka)"
_TRUSTED, _NOT_TRUSTED = 1, 2
_ASKED = 1 << 16
_CPU_AFFINITY = 1


class Session:
    """`read` and `write` raise ClientGone; `forget` drops what has arrived and was not read yet.

    `pausing` waits for a moment and says whether nothing came; `view` says where the client reads
    files, who asks for NARs without one. `gone` is a descriptor that hangs up with the client;
    nothing is built without a `workbench`.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        read: Read,
        write: Write,
        *,
        trusted: bool,
        view: Callable[[Store], View | None],
        pausing: Callable[[], bool],
        everybody: Everybody | None = None,
        forget: Callable[[], None] = lambda: None,
        gone: int | None = None,
        workbench: Callable[[], Workbench] | None = None,
        supply: Supply | None = None,
    ) -> None:
        self._open_store = open_store
        self._supply = supply
        self._source = NarReader(read, subject="the connection")
        self._write = write
        self._trusted = trusted
        self._view = view
        self._forget = forget
        self._pausing = pausing
        self._everybody = everybody
        self._gone, self._workbench = gone, workbench
        self._guard = threading.Lock()
        self._version = MINOR

    def serve(self) -> None:
        """Returns when the client is done. Raises NarError after it was told what makes no sense,
        and ClientGone when it has gone in the middle."""
        if self._source.at_end():
            return
        try:
            self._shake_hands()
            try:
                store = self._open_store()
            except EkaError as error:
                self._write(error_message(_text(error), self._version))
                return
            with store:
                self._write(u64(Message.LAST))
                self._operations(store)
        except NarError as error:
            with suppress(ClientGone):
                self._write(error_message(_text(error), self._version))
            raise

    def _operations(self, store: Store) -> None:
        view = self._view(store)
        peer = Peer(
            store,
            self._version,
            trusted=self._trusted and not (view and view.confined),
            view=view,
            tell=self._tell,
            gone=self._gone,
            workbench=self._workbench,
            everybody=self._everybody,
            supply=self._supply,
        )
        try:
            while not self._over(peer):
                self._operation(peer)
        finally:
            try:
                peer.close()
            except EkaError as error:
                raise ClientGone(f"what a client had added is lost: {error}") from error

    def _over(self, peer: Peer) -> bool:
        buffer, position = self._source.buffered()
        if position == len(buffer) and self._pausing():
            peer.pause()
        return self._source.at_end()

    def _shake_hands(self) -> None:
        source = self._source
        if source.u64("the client's greeting") != CLIENT_MAGIC:
            raise source.error("this is no client of a Nix daemon")
        self._write(u64(SERVER_MAGIC) + u64(MAJOR << 8 | MINOR))
        number = source.u64("the client's version")
        major, minor = number >> 8, number & 0xFF
        if major != MAJOR or minor < OLDEST:
            self._version = min(minor, MINOR) if major == MAJOR else MINOR
            raise source.error(
                f"clients of protocol {major}.{minor} are not served, those of"
                f" {MAJOR}.{OLDEST} and later are"
            )
        self._version = min(minor, MINOR)
        if source.u64("the client's processor") == _CPU_AFFINITY:
            source.u64("the client's processor")
        source.u64("the client's reserved space")
        self._write(self._greeting())

    def _greeting(self) -> bytes:
        version = TEXT.write(_VERSION, self._version) if self._version >= 33 else b""
        trust = _TRUSTED if self._trusted else _NOT_TRUSTED
        return version + (u64(trust) if self._version >= 35 else b"")

    def _operation(self, peer: Peer) -> None:
        number = self._source.u64("an operation")
        try:
            op = Op(number)
        except ValueError:
            self._refuse_unknown(number)
            return
        request = read_fields(REQUESTS[op], self._source, self._version)
        peer.payload = self._payload(op, peer)
        self._write(self._answer(op, peer, request))
        if peer.stream is not None:
            stream, peer.stream = peer.stream, None
            _streamed(stream, self._write)

    def _answer(self, op: Op, peer: Peer, request: Values) -> bytes:
        try:
            if peer.view is not None and peer.view.confined:
                check_scope(peer.view, op, request)
            peer.begin(op)
            reply = HANDLERS[op](peer, request)
            peer.payload.drain()
            return u64(Message.LAST) + write_fields(REPLIES[op], reply, self._version)
        except (EkaError, OSError, sqlite3.Error) as error:
            # If the data makes no sense either, this raises, and the connection ends.
            peer.payload.drain()
            return error_message(_text(error), self._version)

    def _refuse_unknown(self, number: int) -> None:
        """Its arguments are what has arrived by now: clients send a request as a whole."""
        self._forget()
        buffer, _ = self._source.buffered()
        self._source.consume(len(buffer))
        self._write(error_message(f"eka does not know the operation {number}", self._version))

    def _payload(self, op: Op, peer: Peer) -> Payload:
        kind = payload(op, self._version)
        if kind is Kind.FRAMED:
            frames = Frames(self._source)
            return Payload(frames.read, frames.drain)
        if kind is Kind.ASKED:
            return Payload(_Asked(self._source, self._write).read, lambda: None)
        if kind is Kind.NAR:
            nar = _WholeNar(self._source, peer.store)
            return Payload(nar.read, nar.drain)
        return Payload(lambda size: b"", lambda: None)

    def _tell(self, kind: Message, values: Values) -> None:
        message = u64(kind) + write_fields(MESSAGES[kind], values, self._version)
        with self._guard:
            self._write(message)


class _Asked:
    """Data that the client sends in the pieces it is asked for (up to 2.3)."""

    def __init__(self, source: NarReader, write: Write) -> None:
        self._source = source
        self._write = write

    def read(self, size: int) -> bytes:
        wanted = min(size, _ASKED)
        self._write(u64(Message.READ) + u64(wanted))
        return self._source.string(wanted, "a piece of data")


class _WholeNar:
    """A NAR between other things: copied, so that it is read to its end whatever becomes of it."""

    def __init__(self, source: NarReader, store: Store) -> None:
        self._source = source
        self._store = store
        self._copy: IO[bytes] | None = None

    def read(self, size: int) -> bytes:
        return self._whole().read(size)

    def drain(self) -> None:
        self._whole().close()

    def _whole(self) -> IO[bytes]:
        if self._copy is None:
            self._copy = spool(self._store)
            parse_nar(self._source, NarWriter(self._copy.write))
            self._copy.seek(0)
        return self._copy


def _streamed(stream: Callable[[Write], None], write: Write) -> None:
    try:
        stream(write)
    except (EkaError, OSError) as error:
        # There is no way to say so in the middle of a NAR but to end it.
        raise ClientGone(f"a NAR could not be sent: {error}") from error


def _text(error: Exception) -> str:
    hint = error.hint if isinstance(error, EkaError) else None
    return f"{error}\nhint: {hint}" if hint else str(error)
