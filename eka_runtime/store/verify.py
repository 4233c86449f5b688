"""The check of a whole store: every row, every file, every reference, and on request every byte.

Shallow: the database's own consistency, each path info and directory decodes and finds what it
points at, each blob has a file of the right size, each content address gives the path it belongs
to. Deep: also the contents of each blob hash to its digest, and each path's NAR, rendered anew, to
its NAR hash; both in parallel. Constraint: nothing stops at the first problem, and nothing is
changed. All rows are seen as of one moment, so other processes may add paths meanwhile.

Files in blobs/ without a row are counted, not reported: a crash, or a process that is adding right
now, leaves them, and they do no harm.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from eka_runtime.castore.blobs import BlobRow
from eka_runtime.castore.digest import DIGEST_SIZE, B3Digest
from eka_runtime.castore.directories import decode_verified
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, Node
from eka_runtime.errors import EkaError, FormatError
from eka_runtime.nix.path import ContentAddress, path_for_ca
from eka_runtime.store.pathinfo import SELECT, PathInfo, decode_row
from eka_runtime.store.transfer import write_checked_nar

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

# Work handed out ahead, per worker: enough to keep all busy, little to hold in memory.
_AHEAD = 16
_DANGLING = """
    SELECT coalesce(source.hash || '-' || source.name, edge.referrer), edge.reference
    FROM reference AS edge LEFT JOIN path AS source ON source.id = edge.referrer
        LEFT JOIN path AS target ON target.id = edge.reference
    WHERE source.id IS NULL OR target.id IS NULL
"""


class Problem(NamedTuple):
    """`kind` is one of database, path, reference, directory, blob, nar."""

    kind: str
    subject: str
    detail: str


class Verified(NamedTuple):
    """What was looked at. `orphans` are files in blobs/ that no row mentions."""

    paths: int
    directories: int
    blobs: int
    orphans: int
    problems: int

    def summary(self) -> str:
        parts = [counted(self.paths, "path"), counted(self.blobs, "blob")]
        if self.orphans:
            parts.append(counted(self.orphans, "unused file"))
        return ", ".join(parts) + ": no problems"


Report = Callable[[Problem], None]
Progress = Callable[[int, int], None]
T = TypeVar("T")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def verify_store(
    store: Store, *, deep: bool, report: Report, progress: Progress | None = None
) -> Verified:
    """`progress` gets the blobs and paths hashed so far, and their bytes."""
    check = _Check(store, report, progress)
    with check.snapshot():
        check.database(deep)
        check.read_blobs()
        check.read_directories()
        check.read_paths()
    check.blob_files()
    if deep:
        check.contents()
        check.nars()
    return check.result()


class _Check:
    """One run: what was read so far, and how many problems were reported."""

    def __init__(self, store: Store, report: Report, progress: Progress | None) -> None:
        self._store = store
        self._report = report
        self._progress = progress
        self._problems = 0
        self._hashed = (0, 0)
        self._blobs: dict[B3Digest, BlobRow] = {}
        self._sizes: dict[B3Digest, int] = {}  # of directories
        self._paths: list[PathInfo] = []
        self._orphans = 0

    def result(self) -> Verified:
        counts = len(self._paths), len(self._sizes), len(self._blobs)
        return Verified(*counts, self._orphans, self._problems)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        connection = self._store.database.connection
        connection.execute("begin")
        try:
            yield
        finally:
            connection.rollback()

    def database(self, deep: bool) -> None:
        for (message,) in self._rows(f"pragma {'integrity' if deep else 'quick'}_check"):
            if message != "ok":
                self._problem("database", self._store.layout.database, message)
        for path, reference in self._rows(_DANGLING):
            self._problem("reference", path, f"refers to row {reference}, which is not there")

    def read_blobs(self) -> None:
        for digest, name, size in self._rows("select digest, name, size from blob"):
            with self._attempt("blob", _hex(digest)):
                self._blobs[B3Digest(digest)] = BlobRow(B3Digest(digest), name, size)

    def read_directories(self) -> None:
        """Twice: children can be checked when the sizes of all directories are known."""
        statement = "select digest, data from directory"
        for digest, data in self._rows(statement):
            with self._attempt("directory", _hex(digest)):
                self._sizes[B3Digest(digest)] = decode_verified(B3Digest(digest), data).size
        for digest, data in self._rows(statement):
            if digest in self._sizes:
                for name, child in Directory.decode(data).entries:
                    if lack := self._lack(child):
                        subject = B3Digest(digest)
                        self._problem("directory", subject, f"entry {os.fsdecode(name)}: {lack}")

    def read_paths(self) -> None:
        for row in self._rows(SELECT):
            with self._attempt("path", f"{row[0]}-{row[1]}"):
                info = decode_row(row)
                self._paths.append(info)
                if lack := self._lack(info.node) or _wrong_ca(info):
                    self._problem("path", info.path, lack)

    def blob_files(self) -> None:
        sizes = self._file_sizes()
        for digest, row in list(self._blobs.items()):
            size = sizes.pop(row.name, None)
            if size == row.size:
                continue
            detail = "is missing" if size is None else f"has {size} bytes, not {row.size}"
            self._problem("blob", digest, f"{self._store.layout.blobs / row.name} {detail}")
            # Hashing it would only say the same again.
            del self._blobs[digest]
        self._orphans = len(sizes)

    def contents(self) -> None:
        def verify_row(row: BlobRow) -> int:
            self._store.blobs.verify_row(row)
            return row.size

        self._in_parallel("blob", verify_row, self._blobs.items())

    def nars(self) -> None:
        def verify_nar(info: PathInfo) -> int:
            write_checked_nar(self._store, info, None)
            return info.nar_size

        self._in_parallel("nar", verify_nar, ((info.path, info) for info in self._paths))

    def _lack(self, node: Node) -> str | None:
        """What is wrong with the thing a node points at, as far as rows tell."""
        if isinstance(node, DirectoryNode):
            known = self._sizes.get(node.digest)
            what = "directory"
        elif isinstance(node, FileNode):
            row = self._blobs.get(node.digest)
            known, what = row and row.size, "blob"
        else:
            return None
        if known is None:
            return f"{what} {node.digest} is missing"
        return None if known == node.size else f"{what} has size {known}, not {node.size}"

    def _file_sizes(self) -> dict[str, int]:
        """Of all regular files in blobs/, by name."""
        blobs, sizes = self._store.layout.blobs, {}
        with self._attempt("blob", blobs):
            for shard in os.scandir(blobs):
                with self._attempt("blob", shard.path):
                    for entry in os.scandir(shard.path):
                        if entry.is_file(follow_symlinks=False):
                            sizes[f"{shard.name}/{entry.name}"] = entry.stat().st_size
        return sizes

    def _in_parallel(
        self, kind: str, work: Callable[[T], int], items: Iterable[tuple[object, T]]
    ) -> None:
        """`work` returns the bytes it has read. hashlib and blake3 leave the GIL to the others."""
        workers = os.cpu_count() or 1
        pending: deque[tuple[object, Future[int]]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            try:
                for subject, item in items:
                    pending.append((subject, pool.submit(work, item)))
                    if len(pending) > _AHEAD * workers:
                        self._finish(kind, *pending.popleft())
                while pending:
                    self._finish(kind, *pending.popleft())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _finish(self, kind: str, subject: object, future: Future[int]) -> None:
        with self._attempt(kind, subject):
            size = future.result()
            self._hashed = self._hashed[0] + 1, self._hashed[1] + size
            if self._progress is not None:
                self._progress(*self._hashed)

    def _rows(self, statement: str) -> Iterator[Any]:
        """Rows up to the one that cannot be read, which is a problem."""
        with self._attempt("database", self._store.layout.database):
            for row in self._store.database.connection.execute(statement):  # noqa: UP028
                yield row

    @contextmanager
    def _attempt(self, kind: str, subject: object) -> Iterator[None]:
        """Anything a damaged store can throw becomes a problem, and the check goes on."""
        try:
            yield
        except (EkaError, OSError) as error:
            self._problem(kind, subject, error)
        except sqlite3.DatabaseError as error:
            self._problem("database", self._store.layout.database, error)

    def _problem(self, kind: str, subject: object, detail: object) -> None:
        self._problems += 1
        self._report(Problem(kind, str(subject), str(detail)))


def _hex(digest: bytes) -> str:
    return str(B3Digest(digest)) if len(digest) == DIGEST_SIZE else f"0x{digest.hex()}"


def _wrong_ca(info: PathInfo) -> str | None:
    if info.ca is None:
        return None
    self_reference = info.path in info.references
    others = [path for path in info.references if path != info.path]
    try:
        address = ContentAddress.parse(info.ca)
        expected = path_for_ca(info.path.name, address, others, self_reference)
    except FormatError as error:
        return str(error)
    if expected != info.path:
        return f"its content address {info.ca} belongs to {expected}"
    stated = address.hash if address.method == "recursive" and not self_reference else None
    if stated and stated.algo == "sha256" and stated.digest != info.nar_hash:
        return f"its content address {info.ca} is not its NAR hash"
    return None
