"""The byte level under NARs and export streams: length-prefixed, zero-padded strings.

A token is its length as u64 little endian, its bytes, and zero bytes up to a multiple of eight.
`NarReader` reads tokens from any source of bytes. Its constraints: the source is hostile, so a
length is checked before anything is read or allocated for it; it is on the hot path of every
import, so fixed runs of tokens are compared as one constant byte string; and it asks the source
for bytes only when the grammar proves that more must follow, so that it never blocks on a socket
whose peer waits for an answer. What the tokens mean is the business of `nar.py` and `export.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import Struct

from eka_runtime.errors import NarError

Read = Callable[[int], bytes]
Write = Callable[[bytes], object]
Tee = Callable[[bytes | memoryview], object]

# Reads of the source: of this size through the buffer, up to the larger one past it. Throughput
# is flat from 256 KiB to 4 MiB; no stated length can make a single read larger than this.
BUFFER_SIZE = 1 << 18
DIRECT_SIZE = 1 << 20
MAX_CONTENTS = (1 << 63) - 1  # what an off_t holds

U64 = Struct("<Q")  # a length, or a number on its own
_QUOTED_MAX = 64

PADDING: tuple[bytes, ...] = tuple(bytes(-size % 8) for size in range(8))


def u64(number: int) -> bytes:
    return U64.pack(number)


def padding(size: int) -> bytes:
    """The zero bytes after `size` bytes of contents."""
    return PADDING[size & 7]


def token(data: bytes) -> bytes:
    return U64.pack(len(data)) + data + PADDING[len(data) & 7]


class NarReader:
    """Buffered source of tokens; what follows a NAR stays readable from the same reader.

    `read(n)` returns 1..n bytes as soon as it has any, and b"" only at the end of the source.
    `subject` opens every error message, in front of the byte offset.
    """

    __slots__ = ("_base", "_buffer", "_position", "_read", "_remaining", "_tee", "_teed", "subject")

    def __init__(self, read: Read, *, subject: str = "NAR") -> None:
        self.subject = subject
        self._read = read
        self._buffer = b""
        self._base = 0  # offset of the buffer's first byte in the source
        self._position = 0
        self._remaining = 0  # unread contents of the file at hand
        self._tee: Tee | None = None
        self._teed = 0  # buffer index up to which the tee has seen the bytes

    @property
    def offset(self) -> int:
        """Bytes consumed so far; bytes that are merely buffered do not count."""
        return self._base + self._position

    def error(self, problem: str, offset: int | None = None) -> NarError:
        at = self.offset if offset is None else offset
        return NarError(f"{self.subject}, byte {at}: {problem}")

    @contextmanager
    def tee(self, update: Tee) -> Iterator[None]:
        """Hands every byte consumed inside the `with` to `update`, in order and in large pieces.

        They are bytes, or memoryviews of bytes: nothing changes them any more.
        All have been handed over when the block ends normally.
        """
        if self._tee is not None:
            raise ValueError("this reader is teed already")
        self._tee, self._teed = update, self._position
        try:
            yield
            self._flush_tee()
        finally:
            self._tee = None

    def _flush_tee(self) -> None:
        if self._tee is not None and self._position > self._teed:
            self._tee(memoryview(self._buffer)[self._teed : self._position])
            self._teed = self._position

    def _fill(self) -> bool:
        """Appends one read to the buffer; False at the end of the source."""
        self._flush_tee()
        chunk = self._read(BUFFER_SIZE)
        self._base += self._position
        self._buffer = self._buffer[self._position :] + chunk
        self._position = self._teed = 0
        return bool(chunk)

    def _need(self, size: int, what: str) -> None:
        while len(self._buffer) - self._position < size:
            if not self._fill():
                end = self._base + len(self._buffer)
                raise self.error(f"the input ends inside {what}", end)

    def at_end(self) -> bool:
        """Whether the source is over; waits until that is known."""
        return self._position == len(self._buffer) and not self._fill()

    def u64(self, what: str) -> int:
        if len(self._buffer) - self._position < 8:
            self._need(8, what)
        number: int = U64.unpack_from(self._buffer, self._position)[0]
        self._position += 8
        return number

    def string(self, maximum: int, what: str) -> bytes:
        """A token of at most `maximum` bytes; a longer one is refused before it is read."""
        start = self.offset
        size = self.u64(what)
        if size > maximum:
            raise self.error(f"{what} has {size} bytes, at most {maximum} are allowed", start)
        padded = (size + 7) & ~7
        if len(self._buffer) - self._position < padded:
            self._need(padded, what)
        text = self._buffer[self._position : self._position + size]
        self._position += size
        self._skip_padding(size, what)
        return text

    def _skip_padding(self, size: int, what: str) -> None:
        zeros = PADDING[size & 7]
        if len(self._buffer) - self._position < len(zeros):
            self._need(len(zeros), f"the padding of {what}")
        if not self._buffer.startswith(zeros, self._position):
            raise self.error(f"the padding of {what} is not zero")
        self._position += len(zeros)

    def match(self, alternatives: tuple[bytes, ...]) -> int:
        """Consumes one of these runs of whole tokens and returns its index.

        No alternative may be the beginning of another one.
        """
        while True:
            position = self._position
            for index, tokens in enumerate(alternatives):
                if self._buffer.startswith(tokens, position):
                    self._position = position + len(tokens)
                    return index
            rest = self._buffer[position : position + max(map(len, alternatives))]
            # More is read only if it is certain to come: while the bytes at hand begin one of
            # the alternatives and complete none.
            if not any(tokens.startswith(rest) for tokens in alternatives):
                raise self._mismatch(alternatives, ended=False)
            if not self._fill():
                raise self._mismatch(alternatives, ended=True)

    def _mismatch(self, alternatives: tuple[bytes, ...], *, ended: bool) -> NarError:
        found = self._buffer[self._position :]
        done = 0
        while True:
            possible = {
                _first_token(tokens[done:])
                for tokens in alternatives
                if tokens[:done] == found[:done] and len(tokens) > done
            }
            agreed = next((len(one) for one in possible if found.startswith(one, done)), 0)
            if not agreed:
                break
            done += agreed
        expected = " or ".join(sorted(_describe(one) for one in possible))
        problem = "the input ends" if ended else f"found {_describe(found[done:])}"
        return self.error(f"{problem} where {expected} is expected", self.offset + done)

    def buffered(self) -> tuple[bytes, int]:
        """What can be looked at without a read, and the index of the next byte in it."""
        return self._buffer, self._position

    def consume(self, position: int, contents: int = 0) -> None:
        """Goes on at an index into `buffered`, where `contents` begin that are in it whole.

        They need not be read; whoever goes on behind them says so by another `consume`.
        """
        self._position = position
        self._remaining = contents

    def expect(self, size: int) -> None:
        """The next `size` bytes are for `contents`, with no length before and no padding after."""
        self._remaining = size

    def open_contents(self) -> int:
        """Reads the length of a file's contents, which `contents` then returns."""
        start = self.offset
        size = self.u64("the length of a file's contents")
        if size > MAX_CONTENTS:
            raise self.error(f"contents of {size} bytes are more than a file can hold", start)
        self._remaining = size
        return size

    def close_contents(self, size: int) -> None:
        """Skips what is unread, and the padding after `size` bytes."""
        while self._remaining:
            self.contents(DIRECT_SIZE)
        self._skip_padding(size, "a file's contents")

    def contents(self, size: int) -> bytes:
        """1..`size` bytes of the file at hand, b"" at its end; valid until its sink returns.

        Up to BUFFER_SIZE the answer is never short. Larger reads bypass the buffer.
        """
        wanted = min(size, self._remaining)
        if wanted <= 0:
            return b""
        if wanted > BUFFER_SIZE:
            return self._contents_direct(wanted)
        begin = self._position
        if len(self._buffer) - begin < wanted:
            self._need(wanted, "a file's contents")
            begin = self._position
        self._position = begin + wanted
        self._remaining -= wanted
        return self._buffer[begin : begin + wanted]

    def _contents_direct(self, wanted: int) -> bytes:
        data = self._buffer[self._position :]
        if data:
            self._position += len(data)
        else:
            self._flush_tee()
            data = self._read(min(wanted, DIRECT_SIZE))
            if not data:
                raise self.error("the input ends inside a file's contents")
            self._base += self._position + len(data)
            self._buffer, self._position, self._teed = b"", 0, 0
            if self._tee is not None:
                self._tee(data)
        self._remaining -= len(data)
        return data


def _first_token(tokens: bytes) -> bytes:
    size: int = U64.unpack_from(tokens)[0]
    return tokens[: 8 + size + -size % 8]


def _describe(data: bytes) -> str:
    """The token at the beginning of `data`, which may be anything."""
    if len(data) < 8:
        return f"bytes 0x{data.hex()}"
    size: int = U64.unpack_from(data)[0]
    text = data[8 : 8 + min(size, _QUOTED_MAX)]
    if size > _QUOTED_MAX or len(text) < size:
        return f"a string of {size} bytes"
    padded = data[8 + size : 8 + size + -size % 8].strip(b"\0")
    return f"{quote(text)} with padding that is not zero" if padded else quote(text)


def quote(name: bytes) -> str:
    """For a message: UTF-8 where it is, and nothing a terminal would obey."""
    text = name.decode("utf-8", "backslashreplace")
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) + '"'
