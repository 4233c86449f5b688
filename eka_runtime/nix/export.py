"""The stream of `nix-store --export` and `--import`: NARs with what a store must know of them.

    stream = item* u64(0)
    item   = u64(1) nar u64(0x4558494e) path references deriver (u64(0) | u64(1) signature)
    references = u64(count) path*          deriver = path | ""

A NAR comes before the path it belongs to, so readers take the NAR first and learn afterwards
what it was. The signature is a relic that Nix skips as well. Out of scope: whether the contents
agree with the path, the order of the items (Nix writes references first), storing them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from eka_runtime.errors import ExportError, InvalidStorePath, NarError
from eka_runtime.nix.path import MAX_PATH, StorePath
from eka_runtime.nix.tokens import NarReader, Read, Write, token, u64

T = TypeVar("T")

EXPORT_MAGIC = 0x4558494E  # "NIXE"
ITEM_OPEN = u64(1)
STREAM_END = u64(0)

# Closures of whole systems have a few thousand; the rest is margin.
MAX_REFERENCES = 100_000
MAX_SIGNATURE = 1 << 16


class ExportItem(NamedTuple):
    """What follows a NAR; `references` are sorted."""

    path: StorePath
    references: tuple[StorePath, ...]
    deriver: StorePath | None


def read_export(
    source: Read | NarReader, take: Callable[[NarReader], T]
) -> Iterator[tuple[ExportItem, T]]:
    """For each item, what `take` made of the NAR, and whose it was.

    `take` must consume exactly one NAR from the reader. Bytes after the end of the stream are
    left alone. ExportError, or NarError inside a NAR, names the byte offset; items that were
    yielded before it are complete.
    """
    reader = source if isinstance(source, NarReader) else NarReader(source, subject="export stream")
    while _more(reader):
        taken = take(reader)
        yield _read_item(reader), taken


def item_trailer(item: ExportItem) -> bytes:
    """What follows the NAR of an item."""
    references = sorted(set(item.references))
    parts = [u64(EXPORT_MAGIC), _path(item.path), u64(len(references))]
    parts += map(_path, references)
    parts += [_path(item.deriver) if item.deriver else token(b""), u64(0)]
    return b"".join(parts)


def write_export(
    items: Iterable[tuple[ExportItem, Callable[[Write], object]]], write: Write
) -> None:
    """Each item comes with the function that writes its NAR."""
    for item, write_nar in items:
        write(ITEM_OPEN)
        write_nar(write)
        write(item_trailer(item))
    write(STREAM_END)


def _path(path: StorePath) -> bytes:
    return token(str(path).encode())


@contextmanager
def _export_errors() -> Iterator[None]:
    try:
        yield
    except NarError as error:
        raise ExportError(str(error)) from error


def _error(reader: NarReader, problem: str, offset: int) -> ExportError:
    return ExportError(str(reader.error(problem, offset)))


def _more(reader: NarReader) -> bool:
    start = reader.offset
    with _export_errors():
        marker = reader.u64("the mark before an item")
    if marker > 1:
        raise _error(reader, f"mark {marker} is neither 1 (an item) nor 0 (the end)", start)
    return marker == 1


def _read_item(reader: NarReader) -> ExportItem:
    with _export_errors():
        start = reader.offset
        if (magic := reader.u64("the magic number")) != EXPORT_MAGIC:
            raise _error(reader, f"no export magic after a NAR, but {magic:#x}", start)
        path = _read_path(reader, "a store path")
        start = reader.offset
        if (count := reader.u64("the number of references")) > MAX_REFERENCES:
            raise _error(reader, f"{count} references, at most {MAX_REFERENCES} allowed", start)
        references = {_read_path(reader, "a reference") for _ in range(count)}
        deriver = _read_deriver(reader)
        start = reader.offset
        if (signed := reader.u64("the signature mark")) > 1:
            raise _error(reader, f"signature mark {signed} is neither 0 nor 1", start)
        if signed:
            reader.string(MAX_SIGNATURE, "a legacy signature")
    return ExportItem(path, tuple(sorted(references)), deriver)


def _read_path(reader: NarReader, what: str) -> StorePath:
    start = reader.offset
    return _parse_path(reader, reader.string(MAX_PATH, what), what, start)


def _read_deriver(reader: NarReader) -> StorePath | None:
    start = reader.offset
    text = reader.string(MAX_PATH, "a deriver")
    return _parse_path(reader, text, "a deriver", start) if text else None


def _parse_path(reader: NarReader, text: bytes, what: str, start: int) -> StorePath:
    try:
        # Latin-1 decodes anything; what is not ASCII is then refused as a store path.
        return StorePath.parse(text.decode("latin-1"))
    except InvalidStorePath as error:
        raise _error(reader, f"{what}: {error}", start) from error
