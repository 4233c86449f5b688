"""Batches beside others: the same contents at once, collections that mark, failures, deaths."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.blobs import PACKED_MAX, BlobRow
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.ingest import ingest_tree
from eka_runtime.castore.node import Directory, SymlinkNode
from eka_runtime.errors import StoreAccessError
from tests.unit.castore.local import Castore, file_limit, running

SMALL = b"Hello World"
LARGE = SMALL + bytes(PACKED_MAX)
LEAF = Directory(((b"link", SymlinkNode(b"target")),))

both = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["packed", "file"])


@pytest.fixture
def other(castore: Castore) -> Iterator[Castore]:
    """The same castore, as another process has it open."""
    with Castore.open(castore.root) as opened:
        yield opened


def _add(castore: Castore, *contents: bytes) -> list[BlobRow]:
    with castore.batch() as batch:
        digests = [batch.add_blob(data) for data in contents]
        castore.commit(batch)
    rows = castore.blobs.rows_of(digests)
    return [rows[digest] for digest in digests]


def _read(castore: Castore, row: BlobRow) -> bytes:
    with castore.blobs.open_row(row) as reader:
        return reader.read()


def _dead(castore: Castore, table: str = "blob") -> list[int | None]:
    return [dead for (dead,) in castore.database.connection.execute(f"select dead from {table}")]


def _collect(castore: Castore, *, ends: bool = True) -> None:
    """Marks everything, as a collection does that found no use for it."""
    with castore.database.transaction() as conn:
        for table in ("blob", "directory"):
            conn.execute(f"update {table} set dead = (select number from epoch)")
        if ends:
            conn.execute("update epoch set number = number + 1")


@both
def test_the_second_to_commit_drops_its_copy(castore: Castore, other: Castore, data: bytes) -> None:
    with castore.batch() as first, other.batch() as second:
        for batch in (first, second):
            batch.add_blob(data)
            batch.add_directory(LEAF)
        other.commit(second)
        [row] = castore.blobs.rows()
        castore.commit(first)
        assert list(castore.blobs.rows()) == [row]
        # It goes on as if it were its own.
        assert first.add_blob(data) == row.digest
        castore.commit(first)
    assert castore.files() == [row.name] * bool(row.name)
    assert _read(castore, row) == data
    assert list(castore.directories.digests()) == [LEAF.digest]


@both
def test_two_batches_of_one_process_write_the_same(castore: Castore, data: bytes) -> None:
    with castore.batch() as first, castore.batch() as second:
        first.add_blob(data)
        second.add_blob(data)
        castore.commit(first)
        castore.commit(second)
    [row] = castore.blobs.rows()
    assert castore.files() == [row.name] * bool(row.name)


@both
def test_a_dead_blob_is_written_anew(castore: Castore, other: Castore, data: bytes) -> None:
    [old] = _add(castore, data)
    _collect(castore)
    with other.batch() as batch:
        assert not batch.knows(old.digest, len(data))
        batch.add_blob(data)
        assert _dead(castore) == [1]
        other.commit(batch)
    [new] = castore.blobs.rows()
    assert _dead(castore) == [None]
    assert (new.name, new.pack, new.start) != (old.name, old.pack, old.start)
    # Somebody may be reading the old copy.
    assert _read(castore, old) == _read(castore, new) == data


def test_a_dead_blob_may_come_back_in_another_form(castore: Castore) -> None:
    """One that was compressed, or was packed when that was done with larger ones."""
    _add(castore, LARGE)
    castore.database.connection.execute(
        "update blob set name = null, pack = 7, start = 16, stored = 5, dead = 1"
    )
    [row] = _add(castore, LARGE)
    assert row == BlobRow(row.digest, len(LARGE), row.name)
    assert row.name in castore.files()
    assert _read(castore, row) == LARGE


def test_a_dead_directory_is_written_anew(castore: Castore) -> None:
    for _ in range(2):
        with castore.batch() as batch:
            batch.add_directory(LEAF)
            castore.commit(batch)
        assert castore.directories.is_alive(LEAF.digest)
        assert _dead(castore, "directory") == [None]
        _collect(castore)
        assert castore.directories.has(LEAF.digest)
        assert not castore.directories.is_alive(LEAF.digest)


@both
def test_a_mark_set_between_look_and_commit_is_taken_away(
    castore: Castore, other: Castore, data: bytes
) -> None:
    [row, _] = _add(castore, data, b"not wanted")
    with castore.batch() as batch:
        batch.add_directory(LEAF)
        castore.commit(batch)
    with castore.batch() as batch:
        assert batch.knows(row.digest, len(data))
        batch.add_directory(LEAF)
        _collect(other)
        castore.commit(batch)
    assert castore.blobs.is_alive(row.digest)
    assert castore.blobs.row(row.digest) == row
    assert sorted(_dead(castore), key=str) == [1, None]
    assert _dead(castore, "directory") == [None]


@both
def test_a_mark_set_between_two_commits_of_a_batch(
    castore: Castore, other: Castore, data: bytes
) -> None:
    with castore.batch() as batch:
        batch.add_blob(data)
        batch.add_directory(LEAF)
        castore.commit(batch)
        [row] = castore.blobs.rows()
        _collect(other)
        assert batch.knows(row.digest, len(data))
        castore.commit(batch)
    assert _dead(castore) == _dead(castore, "directory") == [None]
    assert list(castore.blobs.rows()) == [row]


@both
def test_the_copy_of_another_that_was_marked_at_once(
    castore: Castore, other: Castore, data: bytes
) -> None:
    with castore.batch() as batch:
        batch.add_blob(data)
        _add(other, data)
        _collect(other)
        castore.commit(batch)
    [row] = castore.blobs.rows()
    assert _dead(castore) == [None]
    assert _read(castore, row) == data


@pytest.mark.parametrize("size", [11, PACKED_MAX, (1 << 20) - 1, 1 << 20, (3 << 20) + 5])
def test_marks_on_a_whole_tree_that_is_added_again(
    castore: Castore, other: Castore, tmp_path: Path, size: int
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(size))
    first = castore.add_tree(source)
    with castore.batch() as batch:
        assert ingest_tree(batch, source) == first
        _collect(other)
        castore.commit(batch)
    assert _dead(castore) == _dead(castore, "directory") == [None]


def test_loose_content_says_since_when(castore: Castore) -> None:
    def flush(batch: Batch, *, loose: bool) -> None:
        batch.sync()
        with castore.database.transaction() as conn:
            batch.flush(conn, loose=loose)
        batch.committed()

    with castore.batch() as batch:
        batch.add_blob(SMALL)
        batch.add_directory(LEAF)
        flush(batch, loose=True)
        batch.add_blob(LARGE)
        flush(batch, loose=False)
    found = {}
    for table in ("blob", "directory"):
        for row in castore.database.connection.execute(f"select digest, loose from {table}"):
            found[row[0]] = row[1]
    assert found[B3Digest.of(LARGE)] is None
    assert found[B3Digest.of(SMALL)] == pytest.approx(found[LEAF.digest], abs=60)


_DIE = """
    from pathlib import Path
    from tests.unit.castore.local import Castore

    with Castore.open(Path(sys.argv[2])) as castore, castore.batch() as batch:
        batch.add_blob(b"placed")
        batch.add_blob(b"placed" + bytes(1 << 16))
        writer = batch.writer(False)
        writer.write(memoryview(b"half"))
        with castore.database.transaction() as conn:
            batch.flush(conn)
            print("ready", flush=True)
            sys.stdin.read()
"""


def test_a_killed_process_leaves_only_what_no_row_mentions(castore: Castore) -> None:
    with running(_DIE, castore.root) as process:
        process.send_signal(signal.SIGKILL)
    left = castore.files()
    assert len(left) == 1
    assert list(castore.blobs.rows()) == []
    # Nothing of it stands in the way, and nothing of it is used.
    rows = _add(castore, b"placed", b"placed" + bytes(1 << 16))
    assert rows[1].name not in left
    assert [len(_read(castore, row)) for row in rows] == [6, 6 + (1 << 16)]
    assert len(list(castore.blobs.rows())) == 2


def _fail(castore: Castore, stack: ExitStack) -> Batch:
    """A batch that cannot write its packed blobs."""
    batch = stack.enter_context(castore.batch())
    batch.add_blob(os.urandom(50_000))
    with file_limit(4096), pytest.raises(StoreAccessError, match="File too large") as caught:
        batch.sync()
    assert caught.value.hint
    return batch


def test_a_failed_batch_does_no_harm_to_the_next(castore: Castore) -> None:
    _add(castore, b"before")
    with ExitStack() as stack:
        batch = _fail(castore, stack)
        for _ in range(2):
            with pytest.raises(StoreAccessError), castore.database.transaction() as conn:
                batch.flush(conn)
    _add(castore, b"after")
    assert {_read(castore, row) for row in castore.blobs.rows()} == {b"before", b"after"}


def test_an_append_that_fails_on_the_way(castore: Castore) -> None:
    """The error of a write in the background shows in a later call."""
    _add(castore, b"before")

    def add_many() -> None:
        with castore.batch() as batch:
            for _ in range(100):
                batch.add_blob(os.urandom(50_000))

    with file_limit(1 << 20), pytest.raises(StoreAccessError, match="File too large"):
        add_many()
    rows = _add(castore, b"after", *(os.urandom(50_000) for _ in range(50)))
    assert _read(castore, rows[0]) == b"after"
    assert len(list(castore.blobs.rows())) == 52
    castore.check()


def test_a_pack_that_cannot_be_begun(castore: Castore) -> None:
    with castore.batch() as batch, file_limit(0):
        batch.add_blob(b"one")
        with pytest.raises(StoreAccessError, match="File too large"):
            batch.sync()
    [row] = _add(castore, b"two")
    assert _read(castore, row) == b"two"


@pytest.mark.parametrize("count", [1, 2000])
def test_what_could_not_be_written_is_never_just_left_out(castore: Castore, count: int) -> None:
    """Whoever goes on after an error has all he gave, or another error."""
    taken: list[B3Digest] = []

    def add_all(batch: Batch) -> None:
        for number in range(count):
            taken.append(batch.add_blob(b"%d" % number))
        batch.sync()

    with castore.batch() as batch:
        with file_limit(0), pytest.raises(StoreAccessError):
            add_all(batch)
        with suppress(StoreAccessError):
            castore.commit(batch)
            assert all(map(castore.blobs.has, taken))


def test_what_was_appended_with_a_failed_batch_is_not_committed(castore: Castore) -> None:
    with castore.batch() as batch:
        batch.add_blob(SMALL)
        with ExitStack() as stack:
            _fail(castore, stack)
        with pytest.raises(StoreAccessError, match="another addition of this process failed"):
            castore.commit(batch)
    assert list(castore.blobs.rows()) == []


@pytest.mark.parametrize("flushed", [False, True], ids=["synced", "flushed"])
def test_what_is_durable_outlives_the_failure_of_another_batch(
    castore: Castore, flushed: bool
) -> None:
    with castore.batch() as batch, ExitStack() as stack:
        digest = batch.add_blob(SMALL)
        batch.sync()
        if not flushed:
            _fail(castore, stack)
            stack.close()
        with castore.database.transaction() as conn:
            batch.flush(conn)
            if flushed:
                # As another thread would, between the insertion and the commit.
                _fail(castore, stack)
                stack.close()
        batch.committed()
    castore.blobs.verify(digest)


@both
def test_a_commit_in_doubt_keeps_what_its_rows_mention(castore: Castore, data: bytes) -> None:
    """The transaction reached the disk, but whoever asked for it got an error."""

    def interrupted() -> None:
        with castore.batch() as batch:
            batch.add_blob(data)
            batch.sync()
            with castore.database.transaction() as conn:
                batch.flush(conn)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    castore.blobs.close()
    castore.blobs.verify(B3Digest.of(data))
