"""Blobs as the local store keeps them: large ones as files of their own, small ones in packs.

    BLOBS/xx/yyyyyyyyyyyyyyyyyyy     contents; mode 0444, or 0555 if first added executable; mtime 1
    PACKS/<number>                   many small contents (`packs.py`)

Files can be mapped, linked and overlaid by the kernel. Their names are 21 digits: the nixbase32 of
the first 8 bytes of the digest and of 5 random ones; with its slashes a name has 23 bytes, and an
overlay redirect of up to 24 keeps an ext4 inode in one piece. Names are not reused, and no two
processes ever make the same one: the row (digest -> place) alone decides what is where. What no row
mentions is a leftover of a crash, or in the making; it counts for nothing.
Out of scope: writing (`batch.py`), deleting.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from blake3 import blake3

from eka_runtime.castore.database import Database, of_digests
from eka_runtime.castore.digest import DIGEST_SIZE, B3Digest
from eka_runtime.castore.packs import Appender, PackReader, pack_name
from eka_runtime.castore.placing import SHARD_LENGTH
from eka_runtime.closing import Closing
from eka_runtime.errors import StoreAccessError, StoreCorrupt, StoreError
from eka_runtime.nix import base32

PACKED_MAX = 1 << 16
"""Blobs below this size go into packs."""

READ_SIZE = 1 << 18

_OF_DIGEST, _RANDOM = 8, 5
_REPAIR = "add the same contents again, or run `eka store verify --repair`"
_ACCESS = "get the right to read it, or look at the system log for errors of the disk"
_HASH_SIZE = 1 << 20
_HASH_MIN = 1 << 12  # a damaged row may expect nothing
_SELECT = "select digest, size, name, pack, start, stored from blob "
_MANY = 256

# Pack, start, bytes taken there, size, digest or what else tells whose, whether it is compressed.
_Small = tuple[int, int, int, int, Any, int | None]
_PLACE = "pack, start, coalesce(stored, size), size"
_PACKED = f"select {_PLACE}, digest, stored from blob "
_SMALL = of_digests(f"{_PLACE}, i, stored", "blob") + " and pack is not null"
# What is read at once, more or less: enough to forget the calls, and not felt in memory.
_RUN_SIZE = 1 << 20


class BlobRow(NamedTuple):
    """`name` is relative to the blob directory, "" for a packed blob; sizes in bytes.

    `stored` is the size in the pack of one that is compressed there.
    """

    digest: B3Digest
    size: int
    name: str = ""
    pack: int = 0
    start: int = 0
    stored: int | None = None


class BlobFiles(Closing):
    """What is on disk, for those who have a row; needs no database.

    Methods raise StoreCorrupt for what is missing or too short, and StoreAccessError.
    """

    def __init__(self, directory: Path, packs: Path) -> None:
        self.directory = directory
        self.packs = PackReader(packs)

    def close(self) -> None:
        self.packs.close()

    def place(self, row: BlobRow) -> str:
        """Where a blob lies, for people."""
        if row.name:
            return os.fspath(self.directory / row.name)
        return self._in_pack(row.pack, row.start)

    def _in_pack(self, pack: int, start: int) -> str:
        return f"{self.packs.directory / pack_name(pack)}, byte {start}"

    def open_row(self, row: BlobRow) -> BinaryIO:
        if not row.name:
            return BytesIO(self.read_packed(row))
        path = f"{os.fspath(self.directory)}/{row.name}"
        try:
            # Unbuffered: readers ask for much, and a buffer would cost more than a small blob.
            return open(path, "rb", buffering=0)
        except FileNotFoundError:
            raise StoreCorrupt(f"{path} is missing", hint=_REPAIR) from None
        except OSError as error:
            raise StoreAccessError(f"cannot read {path}: {error.strerror}", hint=_ACCESS) from error

    def read_packed(self, row: BlobRow) -> bytes:
        """The contents of a small blob, not verified."""
        try:
            if row.stored is None:
                return self.packs.read(row.pack, row.start, row.size)
            data = self.packs.read(row.pack, row.start, row.stored)
        except OSError as error:
            raise StoreAccessError(
                f"cannot read {self.place(row)}: {error.strerror}", hint=_ACCESS
            ) from error
        return _decompressed(data, row.size)

    def verify_row(self, row: BlobRow) -> None:
        """Reads all of it; StoreCorrupt when it is not what its digest says."""
        if row.name:
            with self.open_row(row) as reader:
                actual, size = digest_of(reader, row.size)
        else:
            data = self.read_packed(row)
            actual, size = B3Digest.of(data), len(data)
        if (actual, size) != (row.digest, row.size):
            raise StoreCorrupt(
                f"{self.place(row)} has {size} bytes with digest {actual}, not {row.size} bytes"
                f" with digest {row.digest}",
                hint=_REPAIR,
            )


class LocalBlobs(BlobFiles):
    """A BlobService over a blob directory, a pack directory, and the rows of one database."""

    def __init__(self, directory: Path, packs: Path, database: Database) -> None:
        super().__init__(directory, packs)
        self.appender = Appender(packs)
        self._database = database

    def close(self) -> None:
        self.appender.reset()
        super().close()

    @staticmethod
    def new_name(digest: bytes) -> str:
        text = base32.encode(digest[:_OF_DIGEST] + os.urandom(_RANDOM))
        return f"{text[:SHARD_LENGTH]}/{text[SHARD_LENGTH:]}"

    def differing(self, rows: Iterable[_Small]) -> Iterator[BlobRow]:
        """Of packed blobs in the order in which they lie, those that have to be looked at by
        themselves: they have another digest, or cannot be read, or are compressed."""
        buffer = memoryview(bytearray(_RUN_SIZE + PACKED_MAX))
        for run in _runs(rows):
            pack, begin = run[0][:2]
            try:
                data = buffer[: run[-1][1] + run[-1][2] - begin]
                self.packs.read_into(pack, begin, data)
            except (StoreError, OSError):
                yield from map(_row, run)
                continue
            for row in run:
                _, start, taken, _, digest, stored = row
                contents = data[start - begin : start - begin + taken]
                if stored is not None or blake3(contents).digest() != digest:
                    yield _row(row)

    def row(self, digest: B3Digest) -> BlobRow | None:
        found = self._database.connection.execute(
            _SELECT + "where digest = ?", (digest,)
        ).fetchone()
        return decoded(found) if found else None

    def rows_of(self, digests: Iterable[B3Digest]) -> dict[B3Digest, BlobRow]:
        """Those that are there; one statement for many costs a fraction of one for each."""
        wanted = list(digests)
        found: dict[B3Digest, BlobRow] = {}
        for first in range(0, len(wanted), _MANY):
            some = wanted[first : first + _MANY]
            marks = ",".join("?" * len(some))
            for row in self._database.connection.execute(
                _SELECT + f"where digest in ({marks})", some
            ):
                found[row[0]] = decoded(row)
        return found

    def read_small(self, digests: Sequence[B3Digest]) -> list[bytes | None]:
        """Of packed blobs; what lies side by side, as one tree's do, is read in one piece."""
        found: list[bytes | None] = [None] * len(digests)
        # Plain tuples: this is the hot path of every export.
        rows: list[_Small] = self._database.look_up(_SMALL, digests)
        rows.sort()
        for run in _runs(rows):
            data, begin = self._read_places(run), run[0][1]
            for _, start, taken, size, index, stored in run:
                contents = data[start - begin : start - begin + taken]
                found[index] = contents if stored is None else _decompressed(contents, size)
        return found

    def _read_places(self, run: list[_Small]) -> bytes:
        """All of a run in one piece."""
        pack, begin = run[0][:2]
        end = run[-1][1] + run[-1][2]
        try:
            return self.packs.read(pack, begin, end - begin)
        except OSError as error:
            raise StoreAccessError(
                f"cannot read {self._in_pack(pack, begin)}: {error.strerror}", hint=_ACCESS
            ) from error

    def of_size(self, size: int) -> list[BlobRow]:
        """A few of those with exactly this many bytes; none below 1 MiB, which have no index."""
        rows = self._database.connection.execute(
            _SELECT + "where size = ? and size >= 1048576 and dead is null limit 8", (size,)
        )
        return [decoded(row) for row in rows]

    def rows(self) -> Iterator[BlobRow]:
        """All of them, by digest."""
        return map(decoded, self._database.connection.execute(_SELECT + "order by digest"))

    def is_alive(self, digest: B3Digest) -> bool:
        """Whether it is there, and not about to be removed."""
        row = self._database.connection.execute(
            "select 1 from blob where digest = ? and dead is null", (digest,)
        ).fetchone()
        return row is not None

    def pack_numbers(self) -> Iterator[int]:
        """Of packs that rows mention; by skipping from one to the next in the index."""
        pack = -1
        statement = "select min(pack) from blob where pack > ?"
        execute = self._database.connection.execute
        while (pack := execute(statement, (pack,)).fetchone()[0]) is not None:
            yield pack

    def files_between(self, low: str, high: str) -> list[BlobRow]:
        """Those in files of such names."""
        rows = self._database.connection.execute(
            _SELECT + "where name >= ? and name < ? order by name", (low, high)
        )
        # A key that is no digest cannot be compared with anything: `verify` reports it.
        return [decoded(row) for row in rows if len(row[0]) == DIGEST_SIZE]

    def packed_between(self, pack: int, low: int, high: int) -> list[_Small]:
        """Those that start there in a pack, in the order in which they lie."""
        return self._database.connection.execute(
            _PACKED + "where pack = ? and start >= ? and start < ? and length(digest) = 32"
            " order by start",
            (pack, low, high),
        ).fetchall()

    def has(self, digest: B3Digest) -> bool:
        return self.row(digest) is not None

    def path(self, digest: B3Digest) -> Path | None:
        """The file of a large blob; whoever changes it, or its mode, corrupts the store."""
        row = self.row(digest)
        return self.directory / row.name if row and row.name else None

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        """Raises StoreCorrupt when the file of a known blob is missing."""
        row = self.row(digest)
        return self.open_row(row) if row else None

    def verify(self, digest: B3Digest) -> None:
        """Reads all of it; StoreCorrupt when it is missing, or is not what its digest says."""
        row = self.row(digest)
        if row is None:
            raise StoreCorrupt(f"blob {digest} is missing", hint=_REPAIR)
        self.verify_row(row)


def _runs(rows: Iterable[_Small]) -> Iterator[list[_Small]]:
    """Rows that follow each other in a pack without a gap, up to a size."""
    run: list[_Small] = []
    pack = expected = most = -1
    for row in rows:
        if row[1] != expected or row[0] != pack or expected > most:
            if run:
                yield run
            run, pack, most = [], row[0], row[1] + _RUN_SIZE
        run.append(row)
        expected = row[1] + row[2]
    if run:
        yield run


def _row(packed: _Small) -> BlobRow:
    pack, start, _, size, digest, stored = packed
    return BlobRow(B3Digest(digest), size, "", pack, start, stored)


def _decompressed(data: bytes, size: int) -> bytes:
    # Expensive to import, and not needed by most stores.
    import zstandard

    try:
        # Before anything is allocated: zstd believes what the frame says of its size.
        if zstandard.frame_content_size(data) == size:
            return zstandard.ZstdDecompressor().decompress(data)
        raise zstandard.ZstdError("the frame has another size")
    except zstandard.ZstdError as error:
        raise StoreCorrupt(f"a compressed blob is damaged: {error}", hint=_REPAIR) from error


def decoded(row: tuple[bytes, int, str | None, int | None, int | None, int | None]) -> BlobRow:
    """Of digest, size, name, pack, start, stored."""
    digest, size, name, pack, start, stored = row
    return BlobRow(B3Digest(digest), size, name or "", pack or 0, start or 0, stored)


def digest_of(reader: BinaryIO, expected: int) -> tuple[B3Digest, int]:
    """Digest and size of what is left to read."""
    hasher, size = blake3(), 0
    # No larger than needed: clearing a mebibyte takes longer than hashing most files.
    buffer = memoryview(bytearray(max(_HASH_MIN, min(expected, _HASH_SIZE))))
    while count := reader.readinto(buffer):  # type: ignore[attr-defined]
        hasher.update(buffer[:count])
        size += count
    return B3Digest(hasher.digest()), size
