"""Path infos in the database: what goes in comes out, and what must not go in does not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.errors import HashMismatch, StoreCorrupt, StoreError
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo, read_rows
from eka_runtime.store.store import Store
from tests.stores import insert, link_info

OTHER = StorePath("0" * 32, "other")


@pytest.mark.parametrize(
    "node",
    [
        SymlinkNode(b"\xff/target"),
        FileNode(B3Digest.of(b"x"), 0, True),
        FileNode(B3Digest.of(b"x"), 2**40),
        DirectoryNode(B3Digest.of(b"x"), 2**64 - 1),
    ],
)
def test_what_goes_in_comes_out(damaged: Store, node: Node) -> None:
    first, second = link_info("first"), link_info("second")
    path = StorePath("1" * 32, "full")
    info = PathInfo(
        path,
        node,
        bytes(32),
        2**62,
        tuple(sorted([first.path, second.path, path])),
        StorePath("2" * 32, "full.drv"),
        ("a-1:c2ln", "b-1:c2ln"),
        "text:sha256:" + "0" * 52,
        1_700_000_000,
    )
    insert(damaged, first, second, info)
    assert damaged.paths.get(path) == info
    assert damaged.paths.by_hash(path.hash) == info
    assert info in list(damaged.paths.all())


def test_all_is_sorted_and_counted(store: Store) -> None:
    infos = [link_info(str(number)) for number in range(20)]
    insert(store, *infos)
    assert list(store.paths.all()) == sorted(infos)
    assert store.paths.count() == 20


def test_a_listing_may_outlive_the_store(store_dir: Path) -> None:
    with Store.open(store_dir) as store:
        insert(store, link_info("first"), link_info("second"))
        rows = read_rows(store.database, "SELECT * FROM path")
        assert next(rows)
    rows.close()


def test_the_name_is_part_of_the_path(store: Store) -> None:
    info = link_info("target")
    insert(store, info)
    other = StorePath(info.path.hash, "other")
    assert store.paths.get(other) is None
    assert store.paths.referrers(other) == []
    with pytest.raises(HashMismatch, match="belongs to the name `link`"):
        insert(store, info._replace(path=other))


def test_inserting_twice_changes_nothing(store: Store) -> None:
    first, second = link_info("first"), link_info("second")
    insert(store, first, second)
    with store.database.transaction() as conn:
        again = first._replace(references=(second.path,), registered=5)
        assert not store.paths.insert(conn, again)
    assert store.paths.get(first.path) == first


def test_other_contents_are_refused(store: Store) -> None:
    info = link_info("target")
    insert(store, info)
    with pytest.raises(HashMismatch, match="sha256-") as caught:
        insert(store, info._replace(nar_hash=bytes(32)))
    assert caught.value.hint
    assert store.paths.get(info.path) == info


def test_references_must_be_valid(store: Store) -> None:
    first = link_info("first")
    with pytest.raises(StoreError, match=f"refers to `{OTHER}`") as caught:
        insert(store, first, link_info("second", [first.path, OTHER]))
    assert caught.value.hint
    assert store.paths.count() == 0


def test_a_reference_needs_the_right_name(store: Store) -> None:
    first = link_info("first")
    insert(store, first)
    misnamed = StorePath(first.path.hash, "misnamed")
    with pytest.raises(StoreError, match="misnamed"):
        insert(store, link_info("second", [misnamed]))


def test_references_within_one_transaction_and_to_itself(store: Store) -> None:
    first = link_info("first")
    second = link_info("second", [first.path], to_itself=True)
    insert(store, first, second)
    assert store.paths.get(second.path) == second
    assert store.paths.referrers(first.path) == [second.path]
    assert store.paths.referrers(second.path) == [second.path]


def test_a_referenced_path_cannot_be_deleted(store: Store) -> None:
    first = link_info("first")
    second = link_info("second", [first.path], to_itself=True)
    insert(store, first, second)
    delete = "DELETE FROM path WHERE hash = ?"
    with pytest.raises(sqlite3.IntegrityError), store.database.transaction() as conn:
        conn.execute(delete, (first.path.hash,))
    with store.database.transaction() as conn:
        conn.execute(delete, (second.path.hash,))
        conn.execute(delete, (first.path.hash,))
    assert store.paths.count() == 0


@pytest.mark.parametrize(
    "damage",
    [
        "node = x'00'",
        "node = x''",
        "hash = 'e'",
        "name = '/'",
        "deriver = 'nonsense'",
    ],
)
def test_a_damaged_row_is_named(damaged: Store, damage: str) -> None:
    (info,) = damaged.paths.all()
    damaged.database.connection.execute(f"UPDATE path SET {damage}")
    with pytest.raises(StoreCorrupt, match="path info of") as caught:
        list(damaged.paths.all())
    assert caught.value.hint
    if "hash" not in damage:
        with pytest.raises(StoreCorrupt, match=info.path.hash):
            damaged.paths.by_hash(info.path.hash)


def test_the_schema_refuses_nonsense(store: Store) -> None:
    for values in ("x'00', 1", "'text', 1", "zeroblob(32), 0"):
        statement = f"INSERT INTO path VALUES (1, 'h', 'n', x'', {values}, NULL, NULL, 0)"
        with pytest.raises(sqlite3.IntegrityError):
            store.database.connection.execute(statement)
