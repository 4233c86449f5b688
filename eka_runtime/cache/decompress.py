"""The compressions of binary caches, as streams in both directions.

    none  xz  bzip2  gzip  zstd  br (with the library `brotli`)  lzma (reading only)

Constraint of reading: the input is hostile. Output comes in pieces of at most what was asked for,
however much a few bytes would unpack to, and decoders that would need more memory than 128 MiB are
refused. Several compressed streams one behind the other are one (pbzip2, pigz, pzstd). Whether the
input is complete is told by the formats that know; whoever reads a NAR sees it in any case.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from eka_runtime.errors import MissingExtra, ServiceError, UsageError
from eka_runtime.nix.tokens import Read

EXTENSIONS = {
    "none": "",
    "xz": ".xz",
    "bzip2": ".bz2",
    "gzip": ".gz",
    "zstd": ".zst",
    "br": ".br",
}
"""What can be written, with the end of a NAR's file name."""

_ALIASES = {
    "": "none",
    "identity": "none",
    "bz2": "bzip2",
    "gz": "gzip",
    "x-gzip": "gzip",
    "zst": "zstd",
    "brotli": "br",
}
_MEMORY_MAX = 128 << 20
_INPUT = 1 << 17


def decompressing(read: Read, compression: str, place: str) -> Read:
    """`read(n)` of the unpacked bytes: 1..n of them, b"" at the end.

    Raises ServiceError for a compression that nobody knows and for damaged input, MissingExtra when
    a library lacks.
    """
    name = _ALIASES.get(compression, compression)
    if name == "none":
        return read
    if name == "zstd":
        return _zstd(read, place)
    if name not in _DECODERS:
        raise ServiceError(f"{place} uses the compression {compression[:40]!r}, which eka has not")
    return _Unpacked(read, _DECODERS[name], place).read


class _Decoder(Protocol):
    """What `lzma` and `bz2` have; the others are made alike."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Unpacked:
    def __init__(self, read: Read, decoder: Callable[[], _Decoder], place: str) -> None:
        self._read = read
        self._new = decoder
        self._decoder: _Decoder | None = decoder()
        self._place = place

    def read(self, size: int) -> bytes:
        try:
            while self._decoder is not None:
                decoder = self._decoder
                if decoder.eof:
                    self._next(decoder)
                    continue
                hungry = decoder.needs_input
                more = self._read(_INPUT) if hungry else b""
                if data := decoder.decompress(more, size):
                    return data
                if hungry and not more and not decoder.eof:
                    raise ServiceError(f"{self._place}: a compressed file ends early")
        except (lzma.LZMAError, OSError, zlib.error, EOFError, _BrotliError) as error:
            raise ServiceError(f"{self._place}: a compressed file is damaged: {error}") from error
        return b""

    def _next(self, done: _Decoder) -> None:
        """Another stream may follow; zeros may, too, behind one of xz."""
        rest = done.unused_data.lstrip(b"\0") or self._read(_INPUT).lstrip(b"\0")
        self._decoder = None
        if rest:
            self._decoder = _Begun(self._new(), rest)


class _Begun:
    """A decoder that has its first input already."""

    def __init__(self, decoder: _Decoder, data: bytes) -> None:
        self._decoder = decoder
        self._data = data

    @property
    def eof(self) -> bool:
        return not self._data and self._decoder.eof

    @property
    def needs_input(self) -> bool:
        return not self._data and self._decoder.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        data, self._data = self._data + data, b""
        return self._decoder.decompress(data, max_length)


class _Gzip:
    """zlib's object with the manners of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class _BrotliError(Exception):
    pass


class _Brotli:
    """The library's object, which since version 1.2 stops soon after a limit."""

    unused_data = b""

    def __init__(self) -> None:
        self._library = _brotli()
        self._decoder = self._library.Decompressor()
        self._surplus = memoryview(b"")

    @property
    def eof(self) -> bool:
        return not self._surplus and bool(self._decoder.is_finished())

    @property
    def needs_input(self) -> bool:
        return not self._surplus and bool(self._decoder.can_accept_more_data())

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if not self._surplus:
            try:
                unpacked = self._decoder.process(data, output_buffer_limit=max_length)
            except self._library.error as error:
                raise _BrotliError(error) from error
            self._surplus = memoryview(unpacked)
        found, self._surplus = self._surplus[:max_length], self._surplus[max_length:]
        return bytes(found)


def _brotli() -> Any:
    try:
        import brotli  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra(
            "the compression `br` needs the Python library brotli",
            hint="install it: `pip install 'eka[brotli]'`",
        ) from error
    return brotli


_DECODERS: dict[str, Callable[[], Any]] = {
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_MEMORY_MAX),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_MEMORY_MAX),
    "bzip2": bz2.BZ2Decompressor,
    "gzip": _Gzip,
    "br": _Brotli,
}


class _Source:
    """What the zstd library reads from."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def read(self, size: int) -> bytes:
        return self._read(size)


def _zstd(read: Read, place: str) -> Read:
    import zstandard

    unpacker = zstandard.ZstdDecompressor(max_window_size=_MEMORY_MAX)
    source: Any = _Source(read)
    stream = unpacker.stream_reader(source, read_size=_INPUT, read_across_frames=True)

    def unpacked(size: int) -> bytes:
        try:
            return stream.read1(size)
        except zstandard.ZstdError as error:
            raise ServiceError(f"{place}: a compressed file is damaged: {error}") from error

    return unpacked


class Compressor(Protocol):
    def compress(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...


class _Stored:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _ToBrotli:
    def __init__(self, level: int) -> None:
        self._compressor = _brotli().Compressor(quality=level)

    def compress(self, data: bytes) -> bytes:
        packed: bytes = self._compressor.process(data)
        return packed

    def flush(self) -> bytes:
        rest: bytes = self._compressor.finish()
        return rest


def compressor(compression: str, level: int | None = None) -> Compressor:
    """Raises UsageError for a name that is none, or a level that it has not."""
    if compression not in EXTENSIONS:
        raise UsageError(
            f"there is no compression `{compression[:40]}`",
            hint=f"use one of {', '.join(EXTENSIONS)}",
        )
    try:
        return _new_compressor(compression, level)
    except (ValueError, TypeError, lzma.LZMAError, zlib.error) as error:
        raise UsageError(f"the compression `{compression}` has no level {level}") from error


def _new_compressor(compression: str, level: int | None) -> Compressor:
    if compression == "xz":
        return lzma.LZMACompressor(preset=6 if level is None else level)
    if compression == "bzip2":
        return bz2.BZ2Compressor(9 if level is None else level)
    if compression == "gzip":
        return zlib.compressobj(6 if level is None else level, wbits=31)
    if compression == "br":
        return _ToBrotli(6 if level is None else level)
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=3 if level is None else level).compressobj()
    return _Stored()


def check_compression(compression: str, level: int | None) -> None:
    """Raises as `compressor`, before anything is read for it."""
    compressor(compression, level)
