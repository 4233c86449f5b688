"""Hashing again: every blob exactly once, by one process or many, and what is wrong by its row."""

from __future__ import annotations

import os

import pytest

from eka_runtime.castore import blobs
from eka_runtime.castore import rehash as module
from eka_runtime.castore.blobs import BlobFiles, BlobRow
from eka_runtime.castore.rehash import Rehashed, Wrong, rehash, rehash_all
from eka_runtime.errors import HostError, StoreAccessError
from tests.unit.castore import harm
from tests.unit.castore.local import Castore

CONTENTS = (
    b"",
    *(b"small %d" % number * 50 for number in range(40)),
    *(bytes([number]) * (1 << 16) for number in range(12)),
)


@pytest.fixture(params=[False, True], ids=["alone", "workers"])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether there are any, also for little work; and pieces are small."""
    monkeypatch.setattr(module, "_ALONE", 0 if request.param else 1 << 62)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(module, "_BYTES", 4096)
    monkeypatch.setattr(blobs, "_RUN_SIZE", 1000)
    monkeypatch.setattr(module, "_ROWS", 7)
    return bool(request.param)


def _fill(castore: Castore) -> dict[bytes, BlobRow]:
    with castore.batch() as batch:
        digests = {batch.add_blob(data): data for data in CONTENTS}
        castore.commit(batch)
    castore.blobs.appender.reset()
    return {digests[row.digest]: row for row in castore.blobs.rows()}


def _all(castore: Castore) -> list[Rehashed]:
    with rehash_all(castore.blobs, castore.database.file, sum(map(len, CONTENTS))) as found:
        return list(found)


def _wrong(pieces: list[Rehashed]) -> list[Wrong]:
    return [wrong for piece in pieces for wrong in piece.wrong]


def _total(pieces: list[Rehashed]) -> tuple[int, int]:
    return sum(piece.blobs for piece in pieces), sum(piece.size for piece in pieces)


def test_every_blob_once(castore: Castore, workers: bool) -> None:
    _fill(castore)
    pieces = _all(castore)
    assert len(pieces) > 3
    assert _total(pieces) == (len(CONTENTS), sum(map(len, CONTENTS)))
    assert _wrong(pieces) == []
    assert not has_children()


@pytest.mark.usefixtures("no_processes")
def test_where_no_process_is_to_be_had_one_does_all(castore: Castore, workers: bool) -> None:
    _fill(castore)
    assert _total(_all(castore)) == (len(CONTENTS), sum(map(len, CONTENTS)))


def test_an_empty_castore(castore: Castore, workers: bool) -> None:
    assert _total(_all(castore)) == (0, 0)


def test_given_rows(castore: Castore, workers: bool) -> None:
    rows = [row for row in _fill(castore).values() if row.size % 2]
    with (
        BlobFiles(castore.blobs.directory, castore.blobs.packs.directory) as files,
        rehash(files, iter(rows)) as found,
    ):
        pieces = list(found)
    assert _total(pieces) == (len(rows), sum(row.size for row in rows))
    assert _wrong(pieces) == []


@pytest.mark.parametrize("data", [CONTENTS[5], CONTENTS[-1]], ids=["packed", "file"])
def test_a_changed_byte_is_one_wrong_row(damaged: Castore, workers: bool, data: bytes) -> None:
    row = _fill(damaged)[data]
    harm.change(damaged.blobs, row, at=len(data) - 1)
    pieces = _all(damaged)
    [wrong] = _wrong(pieces)
    assert wrong.row == row
    assert damaged.blobs.place(row) in wrong.detail
    assert str(row.digest) in wrong.detail
    # It was looked at all the same.
    assert _total(pieces) == (len(CONTENTS), sum(map(len, CONTENTS)))


def test_a_file_that_is_shorter_or_missing(damaged: Castore, workers: bool) -> None:
    rows = _fill(damaged)
    short, missing = rows[CONTENTS[-1]], rows[CONTENTS[-2]]
    harm.shorten(damaged.blobs, short)
    harm.remove(damaged.blobs, missing)
    details = {wrong.row: wrong.detail for wrong in _wrong(_all(damaged))}
    assert details.keys() == {short, missing}
    assert f"{short.size - 1} bytes" in details[short]
    assert "is missing" in details[missing]


def test_a_pack_that_is_shorter_or_missing(damaged: Castore, workers: bool) -> None:
    packed = sorted((row for row in _fill(damaged).values() if not row.name), key=_start)
    harm.shorten(damaged.blobs, packed[30])
    assert {wrong.row for wrong in _wrong(_all(damaged))} == {*packed[30:]}
    harm.remove(damaged.blobs, packed[0])
    pieces = _all(damaged)
    assert {wrong.row for wrong in _wrong(pieces)} == {*packed}
    assert _total(pieces)[0] == len(CONTENTS)


def _start(row: BlobRow) -> tuple[int, int]:
    return row.start, row.size


def test_what_cannot_be_read_is_wrong_and_no_end(damaged: Castore, workers: bool) -> None:
    row = _fill(damaged)[CONTENTS[-1]]
    place = harm.container(damaged.blobs, row)
    place.unlink()
    place.mkdir()
    [wrong] = _wrong(_all(damaged))
    assert wrong.row == row


def test_workers_end_with_whoever_stops_early(
    castore: Castore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ALONE", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    _fill(castore)
    with rehash_all(castore.blobs, castore.database.file, 1) as found:
        # They began when nobody had asked for anything yet.
        assert has_children()
        next(iter(found))
        assert has_children()
    assert not has_children()


def test_a_worker_that_dies_is_an_error(castore: Castore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a silence in which nothing was checked."""
    monkeypatch.setattr(module, "_ALONE", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(module, "_rehash", lambda *arguments: os._exit(1))
    _fill(castore)
    with pytest.raises(HostError, match="has ended"):
        _all(castore)
    assert not has_children()


def test_what_a_worker_raises_is_raised_here(
    castore: Castore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ALONE", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with (
        pytest.raises(StoreAccessError, match="nowhere"),
        rehash_all(castore.blobs, castore.database.file.with_name("nowhere"), 1) as found,
    ):
        list(found)
    assert not has_children()


def has_children() -> bool:
    """Also such that ended and were not waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
