"""Recorded conversations of real Nix clients with real Nix daemons, read with our tables.

tests/vectors/nix-daemon.tar.xz: one file for each connection, below the versions of both sides. A
file is `EKATR1` and a newline, and then pieces as they came: direction (0: from the client, 1: from
the server), microseconds, length, bytes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from eka_runtime.daemon.protocol import (
    CLIENT_MAGIC,
    MESSAGES,
    MINOR,
    REPLIES,
    REQUESTS,
    SERVER_MAGIC,
    TEXTS,
    Message,
    Op,
    Payload,
    payload,
)
from eka_runtime.daemon.wire import TEXT, Values, read_fields, write_fields
from eka_runtime.nix.nar import NarReader, NarWriter, parse_nar
from eka_runtime.nix.tokens import u64

_FILE = Path(__file__).parents[2] / "vectors" / "nix-daemon.tar.xz"
_MAGIC = b"EKATR1\n"
_PIECE = Struct("<BQI")
_FEATURES = 38


class Said(NamedTuple):
    kind: Message
    values: Values


class Exchange(NamedTuple):
    """`frames` are the client's, as it cut them; `reply` is None after an error."""

    op: Op
    request: Values
    frames: tuple[bytes, ...]
    said: tuple[Said, ...]
    reply: Values | None
    nar: bytes

    @property
    def data(self) -> bytes:
        return b"".join(self.frames)


class Conversation(NamedTuple):
    """`version` is what both agreed on."""

    client: int
    server: int
    features: tuple[list[str], list[str]]
    release: str
    trust: int
    greeting: tuple[Said, ...]
    exchanges: tuple[Exchange, ...]

    @property
    def version(self) -> int:
        return min(self.client, self.server)


@cache
def recordings() -> dict[str, tuple[bytes, bytes]]:
    """By name, what the client sent and what the server sent."""
    found = {}
    with tarfile.open(_FILE) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            found[member.name.removesuffix(".tr")] = _sides(stream.read())
    return found


def _sides(data: bytes) -> tuple[bytes, bytes]:
    sides = bytearray(), bytearray()
    assert data.startswith(_MAGIC)
    position = len(_MAGIC)
    while position < len(data):
        direction, _, size = _PIECE.unpack_from(data, position)
        position += _PIECE.size
        if direction < 2:
            sides[direction].extend(data[position : position + size])
        position += size
    return bytes(sides[0]), bytes(sides[1])


def decode(sides: tuple[bytes, bytes]) -> Conversation:
    client, server = (NarReader(io.BytesIO(side).read) for side in sides)
    assert client.u64("magic") == CLIENT_MAGIC
    assert server.u64("magic") == SERVER_MAGIC
    numbers = [side.u64("version") & 0xFF for side in (client, server)]
    version = min(numbers)
    features: tuple[list[str], list[str]] = ([], [])
    if version >= _FEATURES:
        features = TEXTS.read(client, version), TEXTS.read(server, version)
    assert client.u64("affinity") == client.u64("reserved") == 0
    release = TEXT.read(server, version) if version >= 33 else ""
    trust = server.u64("trust") if version >= 35 else 0
    greeting = tuple(_said(server, version))
    exchanges = []
    while not client.at_end():
        exchanges.append(_exchange(client, server, version))
    assert server.at_end()
    return Conversation(*numbers, features, release, trust, greeting, tuple(exchanges))


def _said(server: NarReader, version: int) -> Iterator[Said]:
    kind = None
    while kind not in (Message.LAST, Message.ERROR):
        kind = Message(server.u64("a message"))
        yield Said(kind, read_fields(MESSAGES[kind], server, version))


def _exchange(client: NarReader, server: NarReader, version: int) -> Exchange:
    op = Op(client.u64("an operation"))
    request = read_fields(REQUESTS[op], client, version)
    frames = _frames(client) if payload(op, version) is Payload.FRAMED else ()
    said = tuple(_said(server, version))
    if said[-1].kind is Message.ERROR:
        return Exchange(op, request, frames, said, None, b"")
    reply = read_fields(REPLIES[op], server, version)
    nar = io.BytesIO()
    if op is Op.NarFromPath:
        parse_nar(server, NarWriter(nar.write))
    return Exchange(op, request, frames, said, reply, nar.getvalue())


def _frames(client: NarReader) -> tuple[bytes, ...]:
    frames = []
    while size := client.u64("a frame"):
        client.expect(size)
        frames.append(b"".join(iter(lambda: client.contents(1 << 20), b"")))
    return tuple(frames)


def encode(one: Conversation) -> tuple[bytes, bytes]:
    version = one.version
    client = [u64(CLIENT_MAGIC), u64(0x100 | one.client)]
    server = [u64(SERVER_MAGIC), u64(0x100 | one.server)]
    if version >= _FEATURES:
        client.append(TEXTS.write(one.features[0], version))
        server.append(TEXTS.write(one.features[1], version))
    client.append(u64(0) + u64(0))
    server.append(TEXT.write(one.release, version) if version >= 33 else b"")
    server.append(u64(one.trust) if version >= 35 else b"")
    server += [_encoded(said, version) for said in one.greeting]
    for each in one.exchanges:
        client.append(u64(each.op) + write_fields(REQUESTS[each.op], each.request, version))
        if payload(each.op, version) is Payload.FRAMED:
            client += [u64(len(frame)) + frame for frame in (*each.frames, b"")]
        server += [_encoded(said, version) for said in each.said]
        if each.reply is not None:
            server += [write_fields(REPLIES[each.op], each.reply, version), each.nar]
    return b"".join(client), b"".join(server)


def _encoded(said: Said, version: int) -> bytes:
    return u64(said.kind) + write_fields(MESSAGES[said.kind], said.values, version)


assert MINOR < _FEATURES
