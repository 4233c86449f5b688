"""Three services in memory, and servers of them that end with the test."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory
from eka_runtime.castore.services import Read
from eka_runtime.castore.tree_order import breadth_first
from eka_runtime.rpc.channel import Channel
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.served import serve
from tests.unit.castore.local import temporary


class MemoryBlobs(dict[B3Digest, bytes]):
    def has(self, digest: B3Digest) -> bool:
        return digest in self

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        return io.BytesIO(self[digest]) if digest in self else None

    def put(self, read: Read) -> B3Digest:
        return self.keep(b"".join(iter(lambda: read(1 << 20), b"")))

    def keep(self, contents: bytes) -> B3Digest:
        digest = B3Digest.of(contents)
        self[digest] = contents
        return digest


class MemoryDirectories(dict[B3Digest, Directory]):
    def get(self, digest: B3Digest) -> Directory | None:  # type: ignore[override]
        return super().get(digest)

    def get_tree(self, digest: B3Digest) -> Iterator[Directory] | None:
        return breadth_first(digest, self)

    def put_tree(self, directories: Iterable[Directory]) -> B3Digest:
        tree = list(directories)
        self.update({directory.digest: directory for directory in tree})
        return tree[-1].digest


class MemoryPaths(dict[str, PathInfo]):
    def by_hash(self, digits: str) -> PathInfo | None:
        return self.get(digits)

    def put(self, info: PathInfo) -> PathInfo:
        self[info.path.hash] = info
        return info

    def all(self) -> Iterator[PathInfo]:
        return iter(list(self.values()))


@dataclass
class Memory:
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    directories: MemoryDirectories = field(default_factory=MemoryDirectories)
    paths: MemoryPaths = field(default_factory=MemoryPaths)


@contextmanager
def served_memory(place: Path) -> Iterator[tuple[Memory, Channel]]:
    """In memory behind a socket, and the way there."""
    memory = Memory()
    with serve(memory, f"unix:{place}/s") as url:
        channel = Channel(url)
        try:
            yield memory, channel
        finally:
            channel.close()


@contextmanager
def served_somewhere() -> Iterator[tuple[Memory, Channel]]:
    with temporary() as place, served_memory(place) as served:
        yield served
