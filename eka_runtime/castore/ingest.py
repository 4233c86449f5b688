"""Trees, NARs and flat files into a batch: every byte is read once and hashed twice.

One pass computes the castore node (BLAKE3 of each file) and the SHA-256 of the NAR, and writes the
blobs. Names are bytes. Of a tree on disk the contents, the owner's execute bit and the targets of
symlinks count; nothing else does, and links are not followed, not even the root. Nothing becomes
valid here: that takes `Batch.flush`. How the work is spread over threads: `intake.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from eka_runtime.castore.assembly import Assembly, Progress
from eka_runtime.castore.batch import Batch
from eka_runtime.castore.hashing import StreamHash
from eka_runtime.castore.intake import LARGE, Intake
from eka_runtime.castore.node import FileNode, Node, SymlinkNode
from eka_runtime.castore.tree import TreeReader
from eka_runtime.errors import NarError
from eka_runtime.nix.nar import NarReader, Read, parse_nar

Scan = Callable[[bytes | bytearray | memoryview], object]
Source = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class Ingested(NamedTuple):
    """`nar_hash` is the SHA-256 of the NAR, `nar_size` its length in bytes."""

    node: Node
    nar_hash: bytes
    nar_size: int


class IngestedFile(NamedTuple):
    """`content_hash` is the SHA-256 of the contents alone, as flat store paths have it."""

    node: FileNode
    content_hash: bytes
    ingested: Ingested


def ingest_tree(
    batch: Batch,
    source: Source,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
    scan: Scan | None = None,
    adopt: bool = False,
) -> Ingested:
    """Takes in a file, directory or symlink; `scan` gets its NAR, in pieces.

    With `adopt`, large files become blobs themselves where they can: nobody may write to them any
    more, and they get the modes and times of blobs.

    Raises CastoreError for what a tree cannot hold (sockets, devices) and for a file that changes
    its size meanwhile, StoreAccessError for what cannot be read; both name the path. `progress`
    is called with files and bytes so far.
    """
    with StreamHash(scan) as nar_hash, Intake(batch, jobs) as intake:
        assembly = Assembly(batch, progress)
        with TreeReader(
            os.fsencode(source), assembly, intake, nar_hash, batch if adopt else None
        ) as reader:
            reader.read()
        intake.finish()
        return Ingested(assembly.result(), nar_hash.digest(), nar_hash.size)


def ingest_nar(
    batch: Batch,
    reader: NarReader,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Ingested:
    """Takes in one NAR, of which every byte is hashed, and leaves the reader behind it.

    Raises NarError; what was read up to then is in the batch, where it does no harm.
    """
    with StreamHash() as nar_hash, Intake(batch, jobs) as intake:
        sink = _NarIntake(Assembly(batch, progress), intake)
        with reader.tee(nar_hash.update):
            parse_nar(reader, sink)
        intake.finish()
        return Ingested(sink.assembly.result(), nar_hash.digest(), nar_hash.size)


def ingest_file(
    batch: Batch,
    source: Source,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> IngestedFile:
    """Takes in the contents of a regular file, never executable; follows symlinks.

    As Nix does for flat fixed outputs. Raises as `ingest_tree`.
    """
    with ExitStack() as stack:
        nar_hash, content_hash = (stack.enter_context(StreamHash()) for _ in range(2))
        intake = stack.enter_context(Intake(batch, jobs))
        reader = TreeReader(os.fsencode(source), Assembly(batch, progress), intake, nar_hash)
        node = stack.enter_context(reader).read_flat(content_hash)
        intake.finish()
        ingested = Ingested(node, nar_hash.digest(), nar_hash.size)
        return IngestedFile(node, content_hash.digest(), ingested)


class _NarIntake:
    """The sink that takes what a parser of hostile input has already bounded and validated."""

    def __init__(self, assembly: Assembly, intake: Intake) -> None:
        self.assembly = assembly
        self.directory = assembly.directory
        self.end_directory = assembly.end_directory
        self._intake = intake

    def symlink(self, name: bytes, target: bytes) -> None:
        self.assembly.add(name, SymlinkNode(target))

    def file_data(self, name: bytes, executable: bool, data: bytes) -> None:
        digest = self._intake.add(data, executable)
        self.assembly.add_file(name, FileNode(digest, len(data), executable))

    def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
        if size < LARGE:
            digest = self._intake.add(_read_all(read, size), executable)
        else:
            digest = self._intake.stream(size, executable, partial(_fill_from, read))
        self.assembly.add_file(name, FileNode(digest, size, executable))


def _read_all(read: Read, size: int) -> bytes:
    data = read(size)
    if len(data) == size:
        return data
    parts = [data]
    while (missing := size - sum(map(len, parts))) and parts[-1]:
        parts.append(read(missing))
    return b"".join(parts)


def _fill_from(read: Read, view: memoryview) -> None:
    while view:
        data = read(len(view))
        if not data:
            raise NarError("the contents of a file end early")
        view[: len(data)] = data
        view = view[len(data) :]
