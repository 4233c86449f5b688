"""Blobs as files and in packs: how they lie, how they are read, and how damage is noticed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from blake3 import blake3

from eka_runtime.castore.blobs import PACKED_MAX, BlobRow, LocalBlobs
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.packs import pack_name
from eka_runtime.castore.services import require_blob
from eka_runtime.errors import StoreAccessError, StoreCorrupt
from eka_runtime.nix import base32
from tests.unit.castore.harm import change, container, remove, shorten
from tests.unit.castore.local import Castore

SMALL = b"Hello World"
LARGE = SMALL + bytes(PACKED_MAX)

both = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["packed", "file"])


def _add(castore: Castore, *contents: bytes, executable: bool = False) -> list[BlobRow]:
    with castore.batch() as batch:
        digests = [batch.add_blob(data, executable) for data in contents]
        castore.commit(batch)
    rows = [castore.blobs.row(digest) for digest in digests]
    assert None not in rows
    return [row for row in rows if row is not None]


def test_names_are_short_enough_for_an_overlay_redirect(castore: Castore) -> None:
    [row] = _add(castore, LARGE)
    assert re.fullmatch(f"[{base32.ALPHABET}]{{2}}/[{base32.ALPHABET}]{{19}}", row.name)
    assert len("/" + row.name) == 23
    assert castore.files() == [row.name]
    assert castore.blobs.path(row.digest) == castore.blobs.directory / row.name
    assert castore.blobs.place(row) == os.fspath(castore.blobs.directory / row.name)


def test_a_name_is_never_given_twice(castore: Castore) -> None:
    digest = B3Digest.of(LARGE)
    assert len({castore.blobs.new_name(digest) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("size", [0, 1, PACKED_MAX - 1, PACKED_MAX, PACKED_MAX + 1])
def test_the_size_decides_between_pack_and_file(castore: Castore, size: int) -> None:
    [row] = _add(castore, bytes(size))
    if size < PACKED_MAX:
        assert (row.name, castore.files()) == ("", [])
        assert castore.blobs.path(row.digest) is None
        pack = castore.root / "packs" / pack_name(row.pack)
        assert pack.is_file()
        assert castore.blobs.place(row) == f"{pack}, byte {row.start}"
    else:
        assert castore.files() == [row.name]
        assert os.listdir(castore.root / "packs") == []


@both
def test_a_blob_is_read_as_it_was_added(castore: Castore, data: bytes) -> None:
    [row] = _add(castore, data)
    assert castore.blobs.has(row.digest)
    with require_blob(castore.blobs, row.digest) as reader:
        assert reader.read(5) == data[:5]
        assert reader.read() == data[5:]


def test_what_is_not_there_is_none(castore: Castore) -> None:
    missing = B3Digest.of(b"missing")
    assert not castore.blobs.has(missing)
    assert not castore.blobs.is_alive(missing)
    assert castore.blobs.row(missing) is None
    assert castore.blobs.path(missing) is None
    assert castore.blobs.open_read(missing) is None
    with pytest.raises(StoreCorrupt, match=f"blob {missing} is missing".replace("+", r"\+")):
        require_blob(castore.blobs, missing)
    with pytest.raises(StoreCorrupt, match="is missing"):
        castore.blobs.verify(missing)


@both
def test_what_is_marked_can_be_read_but_is_not_alive(castore: Castore, data: bytes) -> None:
    [row] = _add(castore, data)
    assert castore.blobs.is_alive(row.digest)
    castore.database.connection.execute("update blob set dead = 1")
    assert castore.blobs.has(row.digest)
    assert not castore.blobs.is_alive(row.digest)
    with require_blob(castore.blobs, row.digest) as reader:
        assert reader.read() == data


def test_rows_of_many(castore: Castore) -> None:
    rows = _add(castore, LARGE, *(b"%d" % number for number in range(700)))
    missing = [B3Digest.of(b"missing %d" % number) for number in range(300)]
    wanted = [*(row.digest for row in rows), *missing, rows[0].digest]
    assert castore.blobs.rows_of(iter(wanted)) == {row.digest: row for row in rows}
    assert castore.blobs.rows_of([]) == {}
    assert castore.blobs.rows_of(missing) == {}


def test_rows_come_by_digest(castore: Castore) -> None:
    rows = _add(castore, *(b"%d" % number for number in range(20)))
    assert list(castore.blobs.rows()) == sorted(rows)


def test_large_blobs_are_found_by_size(castore: Castore) -> None:
    size = 1 << 20
    rows = _add(castore, b"a" * size, b"b" * size, b"c" * (size + 1), b"d" * 10)
    assert sorted(castore.blobs.of_size(size)) == sorted(rows[:2])
    assert castore.blobs.of_size(size + 2) == []
    assert castore.blobs.of_size(10) == []
    castore.database.connection.execute(
        "update blob set dead = 1 where digest = ?", (rows[0].digest,)
    )
    assert castore.blobs.of_size(size) == rows[1:2]


@both
@pytest.mark.parametrize(
    ("damage", "message"),
    [(remove, "is missing"), (change, "bytes with digest"), (shorten, "ends before|bytes with")],
)
def test_verify_finds_damage(
    damaged: Castore, damage: Callable[[LocalBlobs, BlobRow], None], message: str, data: bytes
) -> None:
    [row] = _add(damaged, data)
    damaged.blobs.verify(row.digest)
    damage(damaged.blobs, row)
    with pytest.raises(StoreCorrupt, match=message) as caught:
        damaged.blobs.verify(row.digest)
    assert container(damaged.blobs, row).name in str(caught.value)
    assert caught.value.hint


@both
def test_a_missing_file_of_a_known_blob_is_damage(damaged: Castore, data: bytes) -> None:
    [row] = _add(damaged, data)
    remove(damaged.blobs, row)
    with pytest.raises(StoreCorrupt, match="is missing"):
        damaged.blobs.open_read(row.digest)


def test_damage_in_a_pack_is_that_of_one_blob(damaged: Castore) -> None:
    rows = _add(damaged, b"first", b"second", b"third")
    assert len({row.pack for row in rows}) == 1
    change(damaged.blobs, rows[1], at=5)
    with pytest.raises(StoreCorrupt, match=str(rows[1].digest).replace("+", r"\+")):
        damaged.blobs.verify(rows[1].digest)
    for row in (rows[0], rows[2]):
        damaged.blobs.verify(row.digest)


@pytest.mark.parametrize("column", ["start = start + 1000000", "start = 1 << 62", "pack = 77"])
def test_a_row_that_leads_nowhere(damaged: Castore, column: str) -> None:
    [row] = _add(damaged, SMALL)
    damaged.database.connection.execute(f"update blob set {column}")
    with pytest.raises((StoreCorrupt, StoreAccessError)) as caught:
        damaged.blobs.open_read(row.digest)
    assert caught.value.hint


def test_a_pack_that_may_not_be_read(damaged: Castore) -> None:
    [row] = _add(damaged, SMALL)
    pack = container(damaged.blobs, row)
    remove(damaged.blobs, row)
    pack.mkdir()
    with pytest.raises(StoreAccessError, match=r"cannot read .*byte 16: Is a directory"):
        damaged.blobs.open_read(row.digest)


def _compress(castore: Castore, data: bytes, stored: bytes) -> BlobRow:
    """A row that leads to a compressed blob."""
    pack, [start] = castore.blobs.appender.append([stored])
    castore.blobs.appender.drain()
    castore.blobs.appender.keep()
    digest = B3Digest(blake3(data).digest())
    castore.database.connection.execute(
        "insert into blob (digest, size, pack, start, stored) values (?, ?, ?, ?, ?)",
        (digest, len(data), pack, start, len(stored)),
    )
    return BlobRow(digest, len(data), "", pack, start, len(stored))


def test_a_compressed_blob_is_read(castore: Castore) -> None:
    data = b"Hello World" * 1000
    row = _compress(castore, data, zstandard.compress(data))
    assert castore.blobs.row(row.digest) == row
    with require_blob(castore.blobs, row.digest) as reader:
        assert reader.read() == data


def test_a_compressed_blob_that_is_none_is_damage(damaged: Castore) -> None:
    for stored in (b"not compressed", zstandard.compress(bytes(1 << 30)), b""):
        damaged.database.connection.execute("delete from blob")
        row = _compress(damaged, SMALL, stored)
        with pytest.raises(StoreCorrupt):
            damaged.blobs.verify(row.digest)


def test_many_threads_may_read_packed_blobs(castore: Castore) -> None:
    contents = [os.urandom(1000) for _ in range(200)]
    rows = _add(castore, *contents)
    castore.blobs.packs.close()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(castore.blobs.read_packed, rows * 5)) == contents * 5
