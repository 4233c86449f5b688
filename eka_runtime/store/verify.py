"""The check of a whole store: every row, every file, every reference, and on request every byte.

Shallow: the database's own consistency, each path info and directory decodes and finds what it
points at, each blob has its place and size, each content address gives the path it belongs to, and
each path info has the seal it was added with. Deep: also the contents of each blob hash to its
digest, on all cores, and so do the twins that checkouts show. NARs are not rendered again: they
follow from the nodes, and the seal ties the NAR hash to the node it was compared with
(`pathinfo.seal`).

Constraint: nothing stops at the first problem, and nothing is changed. Other processes may add and
collect meanwhile: a path comes in one transaction with all that it needs, and nothing that was
alive when the store was opened is removed before it is closed.

Files in blobs/ without a row are counted, not reported: a crash, or a process that is adding right
now, leaves them, and they do no harm.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eka_runtime.castore.blobs import BlobFiles, BlobRow, decoded
from eka_runtime.castore.database import AT_ONCE, of_digests
from eka_runtime.castore.digest import DIGEST_SIZE, B3Digest
from eka_runtime.castore.directories import decode_verified
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, Node
from eka_runtime.castore.packs import pack_number
from eka_runtime.castore.rehash import Rehashed, Wrong, rehash, rehash_all
from eka_runtime.errors import CastoreError, EkaError
from eka_runtime.store.integrity import Integrity
from eka_runtime.store.pathinfo import SELECT_SEALED, decode_row, seal, wrong_ca

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

_DANGLING = """
    SELECT coalesce(source.hash || '-' || source.name, edge.referrer), edge.reference
    FROM reference AS edge LEFT JOIN path AS source ON source.id = edge.referrer
        LEFT JOIN path AS target ON target.id = edge.reference
    WHERE source.id IS NULL OR target.id IS NULL
"""


_BLOBS = (
    "select digest, size, name, pack, start, stored from blob"
    " where length(digest) = 32 order by pack, start, name"
)
# Files whose blobs are looked for at once, which bounds memory.
_AT_ONCE = 1 << 16
_SIZES = of_digests("digest, size", "blob")
# A look-up takes as long as so many rows of a scan.
_SCAN_MAX = 5


class Problem(NamedTuple):
    """`kind` is one of database, path, reference, directory, blob, view."""

    kind: str
    subject: str
    detail: str


class Lost(NamedTuple):
    """Contents that are missing or damaged, by digest."""

    blobs: frozenset[B3Digest]
    directories: frozenset[B3Digest]
    shown: frozenset[B3Digest] = frozenset()
    """Blobs whose contents are right, but not what checkouts show of them."""


class Verified(NamedTuple):
    """What was looked at. `orphans` are files in blobs/ that no row mentions."""

    paths: int
    directories: int
    blobs: int
    orphans: int
    problems: int
    lost: Lost

    def summary(self) -> str:
        parts = [counted(self.paths, "path"), counted(self.blobs, "blob")]
        if self.orphans:
            parts.append(counted(self.orphans, "unused file"))
        return ", ".join(parts) + ": no problems"


Report = Callable[[Problem], None]
Progress = Callable[[int, int], None]


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def verify_store(
    store: Store, *, deep: bool, report: Report, progress: Progress | None = None
) -> Verified:
    """`progress` gets the blobs and paths hashed so far, and their bytes."""
    check = _Check(store, report, progress)
    # The workers first: they are forked, and have no use for a thread.
    with check.rehashing(deep) as found, Integrity(store.database, deep=deep) as integrity:
        check.references()
        check.directories()
        check.paths()
        check.trees()
        check.blobs(found)
        check.database(integrity)
    if deep:
        check.twins()
    return check.result()


class _Check:
    """One run: what was seen so far, and how many problems were reported."""

    def __init__(self, store: Store, report: Report, progress: Progress | None) -> None:
        self._store = store
        self._report = report
        self._progress = progress
        self._problems = self._paths = self._blobs = self._orphans = 0
        self._sizes: dict[bytes, int] = {}  # of directories
        self._roots: set[B3Digest] = set()
        self._below: dict[B3Digest, list[tuple[str, DirectoryNode]]] = {}
        self._lacks: dict[B3Digest, list[str]] = {}
        self._lost_blobs: set[B3Digest] = set()
        self._lost_directories: set[B3Digest] = set()
        self._shown: set[B3Digest] = set()
        self._hashed = 0, 0
        self._blob_rows = self._count_to_compare = 0
        self._to_compare: list[tuple[Directory, list[FileNode]]] = []
        self._files: dict[str, int] = {}
        self._packs: dict[int, int] = {}

    def result(self) -> Verified:
        counts = self._paths, len(self._sizes), self._blobs, self._orphans, self._problems
        sets = (self._lost_blobs, self._lost_directories, self._shown)
        lost = Lost(*map(frozenset, sets))
        return Verified(*counts, lost)

    @contextmanager
    def rehashing(self, deep: bool) -> Iterator[Iterable[Rehashed] | None]:
        """With `deep`, contents are hashed beside all that is done meanwhile."""
        self._files, self._packs = self._file_sizes(), self._pack_sizes()
        if not deep:
            yield None
            return
        size = sum(self._files.values()) + sum(self._packs.values())
        blobs, database = self._store.blobs, self._store.layout.database
        with rehash_all(blobs, database, size) as found:
            yield found

    def database(self, integrity: Integrity) -> None:
        with self._attempt("database", self._store.layout.database):
            for message in integrity.problems():
                self._problem("database", self._store.layout.database, message)

    def references(self) -> None:
        for path, reference in self._rows(_DANGLING):
            self._problem("reference", path, f"refers to row {reference}, which is not there")

    def directories(self) -> None:
        """Each is decoded once; what they say of others is compared in `trees`."""
        for (count,) in self._rows("select count(*) from blob"):
            self._blob_rows = count
        for digest, data in self._rows("select digest, data from directory where dead is null"):
            try:
                directory = decode_verified(B3Digest(digest), data)
            except EkaError as error:
                self._problem("directory", _hex(digest), error)
                if len(digest) == DIGEST_SIZE:
                    self._lost_directories.add(B3Digest(digest))
                continue
            self._sizes[digest] = directory.size
            files = [node for _, node in directory.entries if type(node) is FileNode]
            if len(files) < len(directory.entries):
                self._below[directory.digest] = _directories_of(directory)
            self._to_compare.append((directory, files))
            self._count_to_compare += len(files)
            if self._count_to_compare >= _AT_ONCE:
                self._compare_files()
        self._compare_files()

    def trees(self) -> None:
        """What directories lack, if a path needs them: others may still be on their way in."""
        pending, seen = list(self._roots), set(self._roots)
        while pending:
            parent = pending.pop()
            for detail in self._lacks.get(parent, ()):
                self._problem("directory", parent, detail)
            for name, child in self._below.get(parent, ()):
                if lack := self._lack(child):
                    self._problem("directory", parent, f"entry {name}: {lack}")
                if child.digest not in seen:
                    seen.add(child.digest)
                    pending.append(child.digest)

    def _compare_files(self) -> None:
        """Whether the blobs that directories name are there, of many directories at once."""
        some, self._to_compare, self._count_to_compare = self._to_compare, [], 0
        known = self._blob_sizes([node.digest for _, files in some for node in files])
        for directory, files in some:
            # Most lack nothing, and every file of the store passes here.
            if [known.get(node[0]) for node in files] != [node[1] for node in files]:
                self._lacks[directory.digest] = list(self._lacking(directory, known))

    def _lacking(self, directory: Directory, known: dict[bytes, int]) -> Iterator[str]:
        for name, node in directory.entries:
            if isinstance(node, FileNode) and (lack := self._blob_lack(node, known)):
                yield f"entry {os.fsdecode(name)}: {lack}"

    def _blob_sizes(self, digests: Sequence[B3Digest]) -> dict[bytes, int]:
        known: dict[bytes, int] = {}
        with self._attempt("database", self._store.layout.database):
            database = self._store.database
            if self._blob_rows < _SCAN_MAX * len(digests):
                return dict(database.connection.execute("select digest, size from blob"))
            for first in range(0, len(digests), AT_ONCE):
                known.update(database.look_up(_SIZES, digests[first : first + AT_ONCE]))
        return known

    def paths(self) -> None:
        for sealed, *row in self._rows(SELECT_SEALED):
            try:
                info = decode_row(tuple(row))
            except EkaError as error:
                self._problem("path", f"{row[0]}-{row[1]}", error)
                continue
            self._paths += 1
            if isinstance(info.node, DirectoryNode):
                self._roots.add(info.node.digest)
            if lack := self._lack(info.node) or wrong_ca(info):
                self._problem("path", info.path, lack)
            if sealed != seal(info):
                self._problem("path", info.path, "its row is not what was verified once")

    def blobs(self, found: Iterable[Rehashed] | None) -> None:
        """Places and sizes of all; or, of those that were hashed, what was found."""
        files, packs = self._files, self._packs
        wrong = self._misplaced(files, packs) if found is None else self._hashing(found)
        for row, detail in wrong:
            self._problem("blob", row.digest, detail)
            self._lost_blobs.add(row.digest)
        self._blobs = self._hashed[0]
        for (digest,) in self._rows("select digest from blob where length(digest) <> 32"):
            self._problem("blob", _hex(digest), "is not the name of a blob")
        names = self._rows("select name from blob where name is not null")
        used = len(files.keys() & {name for (name,) in names})
        self._orphans = (
            len(files) - used + len(packs.keys() - set(self._store.blobs.pack_numbers()))
        )

    def twins(self) -> None:
        """The second inodes that checkouts show: their names are the digests of their contents."""
        layout = self._store.layout
        with (
            BlobFiles(layout.twins, layout.packs) as files,
            rehash(files, _twins(layout.twins)) as found,
        ):
            for row, detail in self._hashing(found):
                self._problem("view", row.digest, detail)
                self._shown.add(row.digest)

    def _hashing(self, pieces: Iterable[Rehashed]) -> Iterator[Wrong]:
        for piece in pieces:
            yield from piece.wrong
            count, size = self._hashed
            self._hashed = count + piece.blobs, size + piece.size
            if self._progress is not None:
                self._progress(*self._hashed)

    def _misplaced(self, files: dict[str, int], packs: dict[int, int]) -> Iterator[Wrong]:
        for row in map(decoded, self._rows(_BLOBS)):
            self._hashed = self._hashed[0] + 1, 0
            if lack := _misplaced(row, files, packs):
                yield Wrong(row, f"{self._store.blobs.place(row)} {lack}")

    def _lack(self, node: Node) -> str | None:
        """What is wrong with the thing a node points at, as far as rows tell."""
        if isinstance(node, DirectoryNode):
            known = self._sizes.get(node.digest)
            if known is None:
                self._lost_directories.add(node.digest)
            return _size_lack("directory", node, known)
        if isinstance(node, FileNode):
            return self._blob_lack(node, self._blob_sizes([node.digest]))
        return None

    def _blob_lack(self, node: FileNode, sizes: dict[bytes, int]) -> str | None:
        if node.digest not in sizes:
            self._lost_blobs.add(node.digest)
        return _size_lack("blob", node, sizes.get(node.digest))

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

    def _pack_sizes(self) -> dict[int, int]:
        packs, sizes = self._store.layout.packs, {}
        with self._attempt("blob", packs):
            for entry in os.scandir(packs):
                if entry.is_file(follow_symlinks=False) and (number := pack_number(entry.name)):
                    sizes[number] = entry.stat().st_size
        return sizes

    def _rows(self, statement: str, parameters: Sequence[object] = ()) -> Iterator[Any]:
        """Rows up to the one that cannot be read, which is a problem."""
        with self._attempt("database", self._store.layout.database):
            for row in self._store.database.connection.execute(statement, parameters):  # noqa: UP028
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


def _directories_of(directory: Directory) -> list[tuple[str, DirectoryNode]]:
    return [
        (os.fsdecode(name), child)
        for name, child in directory.entries
        if isinstance(child, DirectoryNode)
    ]


def _size_lack(what: str, node: DirectoryNode | FileNode, known: int | None) -> str | None:
    if known is None:
        return f"{what} {node.digest} is missing"
    return None if known == node.size else f"{what} has size {known}, not {node.size}"


def _twins(directory: Path) -> Iterator[BlobRow]:
    for file in sorted(directory.glob("??/*-*")):
        digits = file.name.partition("-")[0]
        with suppress(ValueError, CastoreError):
            digest = B3Digest(bytes.fromhex(digits))
            yield BlobRow(digest, file.lstat().st_size, f"{file.parent.name}/{file.name}")


def _misplaced(row: BlobRow, files: dict[str, int], packs: dict[int, int]) -> str | None:
    if not row.name:
        end = row.start + (row.size if row.stored is None else row.stored)
        size = packs.get(row.pack)
        if size is None:
            return "is missing"
        return None if end <= size else f"ends at {size}, not at {end}"
    size = files.get(row.name)
    if size is None:
        return "is missing"
    return None if size == row.size else f"has {size} bytes, not {row.size}"


def _hex(digest: bytes) -> str:
    return str(B3Digest(digest)) if len(digest) == DIGEST_SIZE else f"0x{digest.hex()}"
