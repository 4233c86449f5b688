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
from eka_runtime.castore.blobs import PACKED_MAX
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.hashing import StreamHash
from eka_runtime.castore.intake import LARGE, Intake
from eka_runtime.castore.node import FileNode, Node, SymlinkNode
from eka_runtime.castore.recorder import NarRecorder
from eka_runtime.castore.tree import TreeReader
from eka_runtime.errors import NarError
from eka_runtime.nix import nar
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
    with Intake(batch, jobs) as intake, ExitStack() as stack:
        recorder = NarRecorder(batch, intake.beside)
        nar_hash = stack.enter_context(StreamHash(_both(recorder.feed, scan)))
        assembly = Assembly(batch, progress)
        with TreeReader(
            os.fsencode(source), assembly, intake, nar_hash, recorder, batch if adopt else None
        ) as reader:
            reader.read()
        return _finished(assembly, recorder, intake, nar_hash)


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
    with Intake(batch, jobs) as intake, ExitStack() as stack:
        recorder = NarRecorder(batch, intake.beside)
        nar_hash = stack.enter_context(StreamHash(recorder.feed))
        sink = _NarIntake(Assembly(batch, progress), intake, recorder)
        with reader.tee(nar_hash.update):
            parse_nar(reader, sink)
        return _finished(sink.assembly, recorder, intake, nar_hash)


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
        intake, assembly = stack.enter_context(Intake(batch, jobs)), Assembly(batch, progress)
        recorder = NarRecorder(batch, intake.beside)
        nar_hash = stack.enter_context(StreamHash(recorder.feed))
        content_hash = stack.enter_context(StreamHash())
        reader = TreeReader(os.fsencode(source), assembly, intake, nar_hash, recorder)
        node = stack.enter_context(reader).read_flat(content_hash)
        ingested = _finished(assembly, recorder, intake, nar_hash)
        return IngestedFile(node, content_hash.digest(), ingested)


def _finished(
    assembly: Assembly, recorder: NarRecorder, intake: Intake, nar_hash: StreamHash
) -> Ingested:
    node = assembly.result()
    recorder.finish(node)
    intake.finish()
    return Ingested(node, nar_hash.digest(), nar_hash.size)


def _both(first: Scan, second: Scan | None) -> Scan:
    def call(data: bytes | bytearray | memoryview) -> None:
        first(data)
        if second is not None:
            second(data)

    return call


class _NarIntake:
    """The sink that takes what a parser of hostile input has already bounded and validated."""

    def __init__(self, assembly: Assembly, intake: Intake, recorder: NarRecorder) -> None:
        self.assembly = assembly
        self._intake = intake
        self._recorder = recorder
        self._depth = 0
        self._offset = len(nar.MAGIC)  # in the NAR, which has one spelling

    def directory(self, name: bytes) -> None:
        self.assembly.directory(name)
        self._offset += len(nar.DIRECTORY_OPEN)
        if self._depth:
            self._offset += len(nar.entry_open(name))
        self._depth += 1

    def end_directory(self) -> None:
        self.assembly.end_directory()
        self._depth -= 1
        self._offset += len(nar.NODE_CLOSE)
        if self._depth:
            self._offset += len(nar.ENTRY_CLOSE)

    def symlink(self, name: bytes, target: bytes) -> None:
        self.assembly.add(name, SymlinkNode(target))
        self._offset += len(nar.symlink(target)) + (nar.entry_overhead(name) if self._depth else 0)

    def file_data(self, name: bytes, executable: bool, data: bytes) -> None:
        size, digest = len(data), B3Digest.of(data)
        begin = self._opened(name, executable)
        if size < PACKED_MAX:
            self._recorder.small(digest, begin, size)
        else:
            self._recorder.large(begin, size)
            self._recorder.known(digest, size)
            self._intake.take(digest, data, executable)
        self._closed(begin, size)
        self.assembly.add_file(name, FileNode(digest, size, executable))

    def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
        begin = self._opened(name, executable)
        self._recorder.large(begin, size)
        if size < LARGE:
            data = _read_all(read, size)
            digest = B3Digest.of(data)
            self._intake.take(digest, data, executable)
        else:
            digest = self._intake.stream(size, executable, partial(_fill_from, read))
        self._recorder.known(digest, size)
        self._closed(begin, size)
        self.assembly.add_file(name, FileNode(digest, size, executable))

    def _opened(self, name: bytes, executable: bool) -> int:
        """Where contents begin."""
        if self._depth:
            return self._offset + nar.file_open_size(name, executable)
        return self._offset + len(nar.file_header(executable, 0))

    def _closed(self, begin: int, size: int) -> None:
        close = nar.file_close(size) if self._depth else nar.padding(size) + nar.NODE_CLOSE
        self._offset = begin + size + len(close)


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
