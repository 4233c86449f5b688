from __future__ import annotations

from pathlib import Path

import pytest

from eka_runtime.castore.blobs import BlobRow
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.services import require_blob
from eka_runtime.errors import StoreCorrupt
from eka_runtime.nix import base32
from tests.unit.castore.local import Castore

DATA = b"Hello World"


def _add(castore: Castore, *contents: bytes, executable: bool = False) -> list[BlobRow]:
    with castore.batch() as batch:
        digests = [batch.add_blob(data, executable) for data in contents]
        castore.commit(batch)
    rows = [castore.blobs.row(digest) for digest in digests]
    assert None not in rows
    return [row for row in rows if row is not None]


def test_names_are_short_enough_for_an_overlay_redirect(castore: Castore) -> None:
    [row] = _add(castore, DATA)
    assert len("/" + row.name) == 23
    assert row.name.replace("/", "") == base32.encode(B3Digest.of(DATA)[:13])
    assert castore.files() == [row.name]
    assert castore.blobs.path(row.digest) == castore.blobs.directory / row.name


def test_a_blob_is_read_as_it_was_added(castore: Castore) -> None:
    [row] = _add(castore, DATA)
    assert castore.blobs.has(row.digest)
    with require_blob(castore.blobs, row.digest) as reader:
        assert reader.read(5) == DATA[:5]
        assert reader.read() == DATA[5:]


def test_what_is_not_there_is_none(castore: Castore) -> None:
    missing = B3Digest.of(b"missing")
    assert not castore.blobs.has(missing)
    assert castore.blobs.row(missing) is None
    assert castore.blobs.path(missing) is None
    assert castore.blobs.open_read(missing) is None
    with pytest.raises(StoreCorrupt, match=f"blob {missing} is missing".replace("+", r"\+")):
        require_blob(castore.blobs, missing)
    with pytest.raises(StoreCorrupt, match="is missing"):
        castore.blobs.verify(missing)


def test_rows_come_by_digest(castore: Castore) -> None:
    rows = _add(castore, *(b"%d" % number for number in range(20)))
    assert list(castore.blobs.rows()) == sorted(rows)


def test_large_blobs_are_found_by_size(castore: Castore) -> None:
    size = 1 << 20
    rows = _add(castore, b"a" * size, b"b" * size, b"c" * (size + 1), b"d" * 10)
    assert sorted(castore.blobs.of_size(size)) == sorted(rows[:2])
    assert castore.blobs.of_size(size + 2) == []
    assert castore.blobs.of_size(10) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "is missing"),
        (lambda path: path.write_bytes(b"Hello world"), "has 11 bytes with digest"),
        (lambda path: path.write_bytes(b"Hello"), "has 5 bytes with digest"),
    ],
    ids=["missing", "changed", "shortened"],
)
def test_verify_finds_damage(damaged: Castore, damage: object, message: str) -> None:
    [row] = _add(damaged, DATA)
    damaged.blobs.verify(row.digest)
    path = damaged.blobs.directory / row.name
    path.chmod(0o644)
    assert callable(damage)
    damage(path)
    with pytest.raises(StoreCorrupt, match=message) as caught:
        damaged.blobs.verify(row.digest)
    assert row.name in str(caught.value)


def test_a_missing_file_of_a_known_blob_is_damage(damaged: Castore) -> None:
    [row] = _add(damaged, DATA)
    (damaged.blobs.directory / row.name).unlink()
    with pytest.raises(StoreCorrupt, match="is missing"):
        damaged.blobs.open_read(row.digest)
