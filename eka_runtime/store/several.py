"""Several places to copy from, as one: each is asked in turn until one has what is wanted.

A place that cannot tell is passed over where another one has it. What it has and gives wrongly is
found out while it is read, and is not asked for elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple, TypeVar

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory
from eka_runtime.errors import ServiceError
from eka_runtime.store.copying import Source
from eka_runtime.store.pathinfo import PathInfo

T = TypeVar("T")


class _Blobs(NamedTuple):
    places: Sequence[Source]

    def has(self, digest: B3Digest) -> bool:
        return bool(_first(self.places, lambda place: place.blobs.has(digest) or None))

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        return _first(self.places, lambda place: place.blobs.open_read(digest))


class _Directories(NamedTuple):
    places: Sequence[Source]

    def get(self, digest: B3Digest) -> Directory | None:
        return _first(self.places, lambda place: place.directories.get(digest))

    def get_tree(self, digest: B3Digest) -> Iterator[Directory] | None:
        return _first(self.places, lambda place: place.directories.get_tree(digest))


class _Paths(NamedTuple):
    places: Sequence[Source]

    def by_hash(self, digits: str) -> PathInfo | None:
        return _first(self.places, lambda place: place.paths.by_hash(digits))


class Several(NamedTuple):
    """A Source."""

    name: str
    blobs: _Blobs
    directories: _Directories
    paths: _Paths

    @classmethod
    def of(cls, places: Sequence[Source]) -> Several:
        """In the order in which they are asked; they stay their owners' to close."""
        name = ", ".join(place.name for place in places)
        return cls(name, _Blobs(places), _Directories(places), _Paths(places))


def _first(places: Sequence[Source], ask: Callable[[Source], T | None]) -> T | None:
    """Raises the first ServiceError when nobody has it."""
    trouble: ServiceError | None = None
    for place in places:
        try:
            found = ask(place)
        except ServiceError as error:
            trouble = trouble or error
            continue
        if found is not None:
            return found
    if trouble is not None:
        raise trouble
    return None
