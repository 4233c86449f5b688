"""The words of the Nix worker protocol: numbers, strings, lists, records, frames.

Numbers and strings are those of NARs (`nix/tokens.py`), so one reader serves a whole connection and
the NARs in it. A `Codec` reads and writes one type, in the spelling of a protocol version. Its
constraint: the peer is hostile, so a length is checked before anything is allocated for it, and a
request as a whole is bounded. What the words mean is the business of `protocol.py`.

Source: Nix's `worker-protocol.hh`; every recorded exchange is read and written back by the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from eka_runtime.nix.tokens import DIRECT_SIZE, NarReader, Read, Write, token, u64

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

STRING_MAX = 16 << 20
"""Derivations of a few MiB come in one string with clients before 2.4."""

COUNT_MAX = 1 << 22
_REQUEST_MAX = 1 << 26


class Codec(NamedTuple, Generic[T]):
    """`read(source, version)` raises NarError for what it cannot be."""

    read: Callable[[NarReader, int], T]
    write: Callable[[T, int], bytes]


def _write_u64(value: int, version: int) -> bytes:
    return u64(value)


def _write_text(value: str, version: int) -> bytes:
    return token(value.encode("utf-8", "surrogateescape"))


NUMBER = Codec[int](lambda source, version: source.u64("a number"), _write_u64)
BOOL = Codec[bool](lambda source, version: bool(source.u64("a boolean")), _write_u64)
TEXT = Codec[str](
    # What is no UTF-8 comes back as it was.
    lambda source, version: source.string(STRING_MAX, "a string").decode(
        "utf-8", "surrogateescape"
    ),
    _write_text,
)


def sequence(item: Codec[T]) -> Codec[list[T]]:
    """A list or a set, which look the same."""

    def read(source: NarReader, version: int) -> list[T]:
        return [item.read(source, version) for _ in _counted(source)]

    def write(value: Sequence[T], version: int) -> bytes:
        return u64(len(value)) + b"".join(item.write(one, version) for one in value)

    return Codec(read, write)


def mapping(key: Codec[K], value: Codec[V]) -> Codec[dict[K, V]]:
    """In the order of arrival."""

    def read(source: NarReader, version: int) -> dict[K, V]:
        pairs: dict[K, V] = {}
        for _ in _counted(source):
            name = key.read(source, version)
            if name in pairs:
                raise source.error("a key comes twice")
            pairs[name] = value.read(source, version)
        return pairs

    def write(pairs: dict[K, V], version: int) -> bytes:
        entries = (key.write(k, version) + value.write(v, version) for k, v in pairs.items())
        return u64(len(pairs)) + b"".join(entries)

    return Codec(read, write)


def optional(item: Codec[T]) -> Codec[T | None]:
    """A flag, and what it tells of."""

    def read(source: NarReader, version: int) -> T | None:
        return item.read(source, version) if BOOL.read(source, version) else None

    def write(value: T | None, version: int) -> bytes:
        return u64(0) if value is None else u64(1) + item.write(value, version)

    return Codec(read, write)


class Field(NamedTuple):
    """There only with versions from `since` on and before `until`."""

    name: str
    codec: Codec[Any]
    since: int = 0
    until: int = 1 << 32


Fields = tuple[Field, ...]
Values = dict[str, Any]


def read_fields(fields: Fields, source: NarReader, version: int) -> Values:
    """Those that this version has, by name."""
    return {
        field.name: field.codec.read(source, version)
        for field in fields
        if field.since <= version < field.until
    }


def write_fields(fields: Fields, values: Values, version: int) -> bytes:
    """Raises KeyError when one that this version has is missing."""
    return b"".join(
        field.codec.write(values[field.name], version)
        for field in fields
        if field.since <= version < field.until
    )


def record(*fields: Field) -> Codec[Values]:
    """Several fields as one value."""
    return Codec(
        lambda source, version: read_fields(fields, source, version),
        lambda values, version: write_fields(fields, values, version),
    )


class Frames:
    """The contents of a framed stream; `read` is a `Read`, which ends at the frame of length 0."""

    def __init__(self, source: NarReader) -> None:
        self._source = source
        self._left = 0
        self.ended = False

    def read(self, size: int) -> bytes:
        if not self._left and not self.ended:
            self._left = self._source.u64("the length of a frame")
            self.ended = not self._left
            self._source.expect(self._left)
        data = b"" if self.ended else self._source.contents(min(size, self._left))
        self._left -= len(data)
        return data

    def drain(self) -> None:
        """Up to the end, so that the next request can be read."""
        while self.read(DIRECT_SIZE):
            pass


def write_frames(data: Read, write: Write) -> None:
    """The client's side of `Frames`."""
    while piece := data(DIRECT_SIZE):
        write(u64(len(piece)) + piece)
    write(u64(0))


def _counted(source: NarReader) -> Iterator[int]:
    start = source.offset
    count = source.u64("a count")
    if count > COUNT_MAX:
        raise source.error(f"a count of {count} is more than {COUNT_MAX}", start)
    for number in range(count):
        if source.offset - start > _REQUEST_MAX:
            raise source.error(f"a list has more than {_REQUEST_MAX} bytes", start)
        yield number
