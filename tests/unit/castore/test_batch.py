"""The protocol of batch.py: what is seen when, what is trusted, and what is left behind."""

from __future__ import annotations

import mmap
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from eka_runtime.castore.batch import DIRECT_ALIGNMENT
from eka_runtime.castore.blobs import PACKED_MAX, BlobRow
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, SymlinkNode
from eka_runtime.errors import StoreAccessError, StoreError
from tests.requirements import lacking
from tests.unit.castore.local import Castore, file_limit, python

SMALL = b"Hello World"
LARGE = SMALL + bytes(PACKED_MAX)
D = B3Digest.of(LARGE)
LEAF = Directory(((b"link", SymlinkNode(b"target")),))

both_kinds = pytest.mark.parametrize("unnamed", [True, False], ids=["O_TMPFILE", "named"])
both = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["packed", "file"])


def _add(castore: Castore, *contents: bytes, unnamed: bool = True) -> list[BlobRow]:
    with castore.batch(unnamed=unnamed) as batch:
        digests = [batch.add_blob(data) for data in contents]
        castore.commit(batch)
    rows = castore.blobs.rows_of(digests)
    return [rows[digest] for digest in digests]


def _read(castore: Castore, row: BlobRow) -> bytes:
    with castore.blobs.open_row(row) as reader:
        return reader.read()


@both_kinds
def test_a_blob_exists_when_its_row_is_committed(castore: Castore, unnamed: bool) -> None:
    with castore.batch(unnamed=unnamed) as batch:
        assert not batch.knows(D, len(LARGE))
        assert batch.add_blob(LARGE, executable=True) == D
        assert batch.knows(D, len(LARGE))
        [name] = castore.files()
        status = (castore.blobs.directory / name).stat()
        assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o555, 10**9)
        assert status.st_nlink == 1
        assert not castore.blobs.has(D)
        castore.commit(batch)
    assert castore.blobs.row(D) == BlobRow(D, len(LARGE), name)


def test_a_packed_blob_exists_when_its_row_is_committed(castore: Castore) -> None:
    with castore.batch() as batch:
        digest = batch.add_blob(SMALL, executable=True)
        assert batch.knows(digest, len(SMALL))
        assert not castore.blobs.has(digest)
        castore.commit(batch)
    assert castore.files() == []
    [row] = castore.blobs.rows()
    assert (row.digest, row.size, row.name) == (digest, len(SMALL), "")
    assert _read(castore, row) == SMALL


def test_the_umask_does_not_matter(castore: Castore) -> None:
    previous = os.umask(0o077)
    try:
        [row] = _add(castore, LARGE)
    finally:
        os.umask(previous)
    assert (castore.blobs.directory / row.name).stat().st_mode & 0o777 == 0o444


@both_kinds
def test_a_batch_left_without_commit_leaves_nothing(castore: Castore, unnamed: bool) -> None:
    [kept] = _add(castore, b"kept")
    before = castore.pack_sizes()
    with castore.batch(unnamed=unnamed) as batch:
        batch.add_blob(LARGE)
        batch.add_blob(SMALL)
        batch.add_directory(LEAF)
        for finished in (True, False):
            writer = batch.writer(False)
            writer.write(memoryview(LARGE))
            if finished:
                writer.finish(D)
            writer.close()
        assert len(castore.files()) == 1
    assert list((castore.root / "tmp").iterdir()) == []
    assert castore.files() == []
    assert list(castore.blobs.rows()) == [kept]
    assert list(castore.directories.digests()) == []
    castore.blobs.close()
    assert castore.pack_sizes() == before


def test_what_was_committed_stays_when_the_rest_is_left(castore: Castore) -> None:
    with castore.batch() as batch:
        batch.add_blob(LARGE)
        batch.add_blob(SMALL)
        castore.commit(batch)
        batch.add_blob(LARGE + b"more")
        batch.add_blob(SMALL + b"more")
    castore.blobs.close()
    assert {_read(castore, row) for row in castore.blobs.rows()} == {SMALL, LARGE}
    assert len(castore.files()) == 1


def test_what_is_known_is_not_written_again(castore: Castore) -> None:
    contents = [SMALL, LARGE, b""]
    rows = _add(castore, *contents)
    files = {name: (castore.blobs.directory / name).stat() for name in castore.files()}
    with castore.batch() as batch:
        with file_limit(0):
            for data in contents:
                batch.add_blob(data, executable=True)
        castore.commit(batch)
    assert {name: (castore.blobs.directory / name).stat() for name in castore.files()} == files
    assert sorted(rows) == list(castore.blobs.rows())


def test_a_batch_may_be_flushed_more_than_once(castore: Castore) -> None:
    with castore.batch() as batch:
        for number in range(3):
            batch.add_blob(b"%d" % number)
            batch.add_blob(b"%d" % number + LARGE)
            castore.commit(batch)
            assert batch.add_blob(b"0") == B3Digest.of(b"0")
    assert len(list(castore.blobs.rows())) == 6
    assert len(castore.files()) == 3


@both
def test_a_rolled_back_flush_leaves_the_store_as_it_was(castore: Castore, data: bytes) -> None:
    def fail() -> None:
        with castore.batch() as batch, castore.database.transaction() as conn:
            batch.add_blob(data)
            batch.add_directory(LEAF)
            batch.flush(conn)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not castore.blobs.has(B3Digest.of(data))
    assert not castore.directories.has(LEAF.digest)
    # What the failed one may have left is not what the row leads to.
    left = castore.files()
    [row] = _add(castore, data)
    assert row.name not in left
    assert _read(castore, row) == data


@both_kinds
@pytest.mark.parametrize("left", [None, b"", LARGE[:-1]], ids=["missing", "empty", "shorter"])
def test_adding_again_mends_a_file_of_the_wrong_size(
    castore: Castore, left: bytes | None, unnamed: bool
) -> None:
    [row] = _add(castore, LARGE)
    path = castore.blobs.directory / row.name
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    [mended] = _add(castore, LARGE, unnamed=unnamed)
    assert mended.name != row.name
    assert _read(castore, mended) == LARGE
    if left is not None:
        # Somebody may be reading it; the next collection takes it.
        assert path.read_bytes() == left


def test_many_threads_may_add_the_same(castore: Castore) -> None:
    contents = [LARGE + b"%d" % (number % 10) for number in range(80)]
    # `put` is what other threads call: the one that has the batch asks `knows` before.
    with castore.batch() as batch, ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda data: batch.put(B3Digest.of(data), data, False), contents):
            pass
        castore.commit(batch)
    assert len(castore.files()) == len(list(castore.blobs.rows())) == 10


def test_many_small_blobs_and_many_times_the_same(castore: Castore) -> None:
    contents = [b"%d" % (number % 1500) for number in range(4000)]
    for _ in range(2):
        with castore.batch() as batch:
            for data in contents:
                digest = batch.add_blob(data)
                assert batch.knows(digest, len(data))
            castore.commit(batch)
        assert {_read(castore, row) for row in castore.blobs.rows()} == set(contents)
    # Each of them lies there once.
    assert sum(castore.pack_sizes().values()) == 16 + sum(map(len, set(contents)))


@both_kinds
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("tail", [0, 1, DIRECT_ALIGNMENT - 1, DIRECT_ALIGNMENT])
def test_a_blob_may_come_in_pieces(
    castore: Castore, direct: bool, tail: int, unnamed: bool
) -> None:
    size = 4 * DIRECT_ALIGNMENT
    buffer = memoryview(mmap.mmap(-1, size))
    buffer[:] = os.urandom(size)
    expected = bytes(buffer) + bytes(buffer[:tail])
    with castore.batch(unnamed=unnamed) as batch:
        writer = batch.writer(True, direct=direct)
        writer.write(buffer)
        writer.write(buffer[:tail])
        writer.finish(B3Digest.of(expected))
        writer.close()
        castore.commit(batch)
    [row] = castore.blobs.rows()
    assert row.size == len(expected)
    assert (castore.blobs.directory / row.name).read_bytes() == expected


def test_an_error_of_writing_comes_with_advice(castore: Castore) -> None:
    with (
        castore.batch() as batch,
        file_limit(1 << 16),
        pytest.raises(StoreAccessError, match="File too large") as caught,
    ):
        batch.add_blob(bytes(1 << 17))
    assert caught.value.hint
    assert castore.files() == []


def test_what_was_not_written_completely_is_never_placed(castore: Castore) -> None:
    pieces = [memoryview(bytes(1 << 16)), memoryview(b"one more"), memoryview(b"the end")]
    with castore.batch() as batch:
        writer = batch.writer(False)
        writer.write(pieces[0])
        with file_limit(1 << 16), pytest.raises(StoreAccessError):
            writer.write(pieces[1])
        writer.write(pieces[2])
        with pytest.raises(StoreError, match="not written completely"):
            writer.finish(B3Digest.of(b"".join(pieces)))
        writer.close()
    assert castore.files() == []


def test_a_store_that_is_not_there_is_named(castore: Castore) -> None:
    (castore.root / "blobs").rmdir()
    with pytest.raises(StoreAccessError, match=str(castore.root)), castore.batch():
        pass
    (castore.root / "blobs").mkdir()


_ON_A_SMALL_DISK = """
    import os
    import subprocess
    from pathlib import Path
    from eka_runtime.errors import StoreAccessError
    from tests.unit.castore.local import Castore

    root = Path(sys.argv[2])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", root], check=True)
    with Castore.open(root) as castore:
        with castore.batch() as batch:
            batch.add_blob(b"before")
            castore.commit(batch)
            batch.add_blob(bytes(1 << 20))
            try:
                batch.add_blob(bytes(8 << 20))
            except StoreAccessError as error:
                print(error, "|", error.hint)
        assert list((root / "tmp").iterdir()) == []
        assert castore.files() == []
        with castore.batch() as batch:
            batch.add_blob(b"after")
            castore.commit(batch)
        assert len(list(castore.blobs.rows())) == 2
        castore.check()
"""
_ON_A_READ_ONLY_DISK = """
    import os
    import subprocess
    from pathlib import Path
    from eka_runtime.errors import StoreAccessError
    from tests.unit.castore.local import Castore

    root = Path(sys.argv[2])
    for options in (["--bind", root, root], ["-o", "remount,bind,ro", root]):
        subprocess.run(["mount", *options], check=True)
    for data in (b"new", bytes(1 << 16)):
        with Castore.open(root) as castore, castore.batch() as batch:
            try:
                batch.add_blob(data)
            except StoreAccessError as error:
                print(error, "|", error.hint)
"""


@pytest.mark.parametrize(
    ("script", "message", "hint"),
    [
        (_ON_A_SMALL_DISK, "No space left on device", "free some space"),
        (_ON_A_READ_ONLY_DISK, "Read-only file system", "writable file system"),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_in_trouble(castore: Castore, script: str, message: str, hint: str) -> None:
    enter = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode:
        lacking("no user namespaces here")
    done = subprocess.run(
        python(script, castore.root, prefix=enter), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert message in done.stdout.decode()
    assert hint in done.stdout.decode()
