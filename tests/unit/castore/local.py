"""A castore alone, as it lies in a store: database, blob files, and files in the making."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.blobs import LocalBlobs
from eka_runtime.castore.database import Database
from eka_runtime.castore.directories import LocalDirectories
from eka_runtime.castore.ingest import Ingested, Source, ingest_nar, ingest_tree
from eka_runtime.nix.nar import NarReader
from tests.unit.nix.trees import Dir, File, Tree, in_pieces

_ROOT = Path(__file__).parents[3]


def _memory() -> str | None:
    """Hundreds of small stores, each made durable, are kept from the disk where that is possible.

    In containers nothing there may be executed.
    """
    place = "/dev/shm"
    fit = os.access(place, os.W_OK) and not os.statvfs(place).f_flag & os.ST_NOEXEC
    return place if fit else None


_MEMORY = _memory()


class Castore(NamedTuple):
    root: Path
    database: Database
    blobs: LocalBlobs
    directories: LocalDirectories

    @classmethod
    @contextmanager
    def open(cls, root: Path) -> Iterator[Self]:
        for name in ("blobs", "packs", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)
        database = Database(root / "db.sqlite")
        try:
            blobs = LocalBlobs(root / "blobs", root / "packs", database)
            try:
                yield cls(root, database, blobs, LocalDirectories(database))
            finally:
                blobs.close()
        finally:
            database.close()

    def batch(self, *, unnamed: bool = True) -> Batch:
        return Batch(self.database, self.blobs, self.root / "tmp", unnamed=unnamed)

    def commit(self, batch: Batch) -> None:
        batch.sync()
        with self.database.transaction() as conn:
            batch.flush(conn)
        batch.committed()

    def add(self, work: Callable[[Batch], Ingested]) -> Ingested:
        with self.batch() as batch:
            done = work(batch)
            self.commit(batch)
        return done

    def add_tree(self, source: Source) -> Ingested:
        return self.add(lambda batch: ingest_tree(batch, source))

    def add_nar(self, nar: bytes, piece: int = 1 << 20) -> Ingested:
        return self.add(lambda batch: ingest_nar(batch, NarReader(in_pieces(nar, piece))))

    def files(self) -> list[str]:
        """The blob files, by name."""
        return sorted(os.path.relpath(path, self.blobs.directory) for path in self._paths("blobs"))

    def pack_sizes(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self._paths("packs")}

    def check(self) -> None:
        for row in self.blobs.rows():
            self.blobs.verify_row(row)
            if not row.name:
                continue
            status = (self.blobs.directory / row.name).stat()
            assert status.st_mode & 0o7777 in (0o444, 0o555)
            assert status.st_mtime_ns == 10**9
        for digest in self.directories.digests():
            assert self.directories.get(digest) is not None
        assert list(self._paths("tmp")) == []

    def _paths(self, below: str) -> Iterator[Path]:
        return (path for path in (self.root / below).rglob("*") if not path.is_dir())


@contextmanager
def temporary() -> Iterator[Path]:
    """A directory for one Hypothesis example, whose fixtures are shared by all examples."""
    path = Path(tempfile.mkdtemp(dir=_MEMORY))
    try:
        yield path
    finally:
        for directory, _, _ in os.walk(path):
            os.chmod(directory, 0o700)
        shutil.rmtree(path)


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file can grow beyond; stands for every error that a write may meet.

    With 0 it proves that nothing at all is written.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def python(script: str, *arguments: str | Path, prefix: tuple[str, ...] = ()) -> list[str | Path]:
    """A command that runs a script; it has `sys`, and its arguments from `sys.argv[2]` on."""
    code = "import sys\nsys.path.insert(0, sys.argv[1])\n" + textwrap.dedent(script)
    return [*prefix, sys.executable, "-c", code, _ROOT, *arguments]


@contextmanager
def running(script: str, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that has printed "ready"; it ends when its stdin does, or is killed."""
    command = python(script, *arguments)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def naive_nar(tree: Tree) -> bytes:
    """The NAR of a tree by the grammar alone, independent of the code under test."""
    return _string(b"nix-archive-1") + _node(tree)


def _node(tree: Tree) -> bytes:
    parts = [b"(", b"type"]
    if isinstance(tree, File):
        parts += [b"regular", *([b"executable", b""] if tree.executable else [])]
        parts += [b"contents", tree.contents]
    elif isinstance(tree, Dir):
        return (
            b"".join(map(_string, [*parts, b"directory"]))
            + b"".join(_entry(name, child) for name, child in sorted(tree.entries))
            + _string(b")")
        )
    else:
        parts += [b"symlink", b"target", tree.target]
    return b"".join(map(_string, [*parts, b")"]))


def _entry(name: bytes, tree: Tree) -> bytes:
    head = b"".join(map(_string, [b"entry", b"(", b"name", name, b"node"]))
    return head + _node(tree) + _string(b")")


def _string(data: bytes) -> bytes:
    padded = data + bytes(-len(data) % 8)
    return len(data).to_bytes(8, "little") + padded
