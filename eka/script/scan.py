"""Finds the store paths that a script or binary mentions, for files that state no packages.

Streams, so that a file of gigabytes costs one window of memory. What is found is a hash part and
all name characters after it; the true name may be shorter (`/nix/store/<hash>-foo-1.0.` ends a
sentence), so only the store can tell: `resolve` asks it by hash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import BinaryIO, NamedTuple

from eka_runtime.errors import FormatError
from eka_runtime.nix.base32 import ALPHABET
from eka_runtime.nix.path import HASH_LENGTH, MAX_NAME, MAX_PATH, STORE_DIR, StorePath

CHUNK = 1 << 20
MAX_CANDIDATES = 1 << 16
"""Distinct mentions in one file; more than any closure has, and a bound for hostile files."""

_PREFIX = f"{STORE_DIR}/".encode()
_REST = re.compile(
    rb"([%s]{%d})-([A-Za-z0-9+._?=-]{1,%d})" % (ALPHABET.encode(), HASH_LENGTH, MAX_NAME)
)


class Candidate(NamedTuple):
    """`text` begins with the name, `offset` is that of `/nix/store/` in bytes."""

    hash: str
    text: str
    offset: int

    def __str__(self) -> str:
        return f"{STORE_DIR}/{self.hash}-{self.text}"


class Resolution(NamedTuple):
    """`paths` in the order of first mention; `missing` is what the store cannot match."""

    paths: tuple[StorePath, ...]
    missing: tuple[Candidate, ...]


def scan(read: Callable[[int], bytes]) -> list[Candidate]:
    """Distinct mentions in the order they occur; `read(n)` returns up to n bytes, b"" at the end.

    Raises FormatError for a file with more than MAX_CANDIDATES of them.
    """
    found: dict[tuple[bytes, bytes], int] = {}
    window, start, ended = b"", 0, False
    while not ended:
        chunk = read(CHUNK)
        ended = not chunk
        window += chunk
        # A mention that begins later may go on in the next chunk. No mention begins inside
        # another (names have no slash), so cutting here cannot invent one.
        limit = len(window) if ended else max(len(window) - MAX_PATH, 0)
        _scan_window(window, limit, start, found)
        window, start = window[limit:], start + limit
    return [Candidate(digits.decode(), name.decode(), at) for (digits, name), at in found.items()]


def resolve(
    candidates: Iterable[Candidate], by_hash: Callable[[str], StorePath | None]
) -> Resolution:
    """The store's paths that are mentioned: equal hash, and the mention begins with the name."""
    paths: dict[StorePath, None] = {}
    missing: list[Candidate] = []
    for candidate in candidates:
        path = by_hash(candidate.hash)
        if path is not None and candidate.text.startswith(path.name):
            paths.setdefault(path)
        else:
            missing.append(candidate)
    known = {path.hash for path in paths}
    # A clipped mention (`/nix/store/<hash>-fo…` in a message) of a path that is there is no loss.
    return Resolution(tuple(paths), tuple(item for item in missing if item.hash not in known))


def describe_offset(stream: BinaryIO, file: str, offset: int) -> str:
    """`file:line:column` in a text, `file: byte N` in a binary; reads up to `offset`."""
    line, column, at = 1, 1, 0
    while at < offset and (chunk := stream.read(min(CHUNK, offset - at))):
        if b"\0" in chunk:
            return f"{file}: byte {offset}"
        newlines = chunk.count(b"\n")
        line += newlines
        column = len(chunk) - chunk.rfind(b"\n") if newlines else column + len(chunk)
        at += len(chunk)
    return f"{file}:{line}:{column}"


def _scan_window(
    window: bytes, limit: int, start: int, found: dict[tuple[bytes, bytes], int]
) -> None:
    at = window.find(_PREFIX, 0, limit + len(_PREFIX) - 1)
    while at >= 0:
        if match := _REST.match(window, at + len(_PREFIX)):
            found.setdefault((match[1], match[2]), start + at)
            if len(found) > MAX_CANDIDATES:
                raise FormatError(
                    f"more than {MAX_CANDIDATES} store paths are mentioned",
                    hint="state the packages in a header or with `-p`",
                )
        at = window.find(_PREFIX, at + 1, limit + len(_PREFIX) - 1)
