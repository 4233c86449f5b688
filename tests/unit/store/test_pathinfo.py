"""Path infos in the database: what goes in comes out, and what must not go in does not."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.errors import HashMismatch, PathNotFound, StoreCorrupt, StoreError
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


def test_paths_are_found_by_a_beginning(store: Store) -> None:
    names = ("jq-1.7", "jq-1.6", "sed", "j_")
    infos = [
        link_info("x")._replace(path=StorePath(str(number) * 32, name), ca=None)
        for number, name in enumerate(names)
    ]
    insert(store, *infos)
    paths = {info.path.name: info.path for info in infos}
    assert set(store.paths.beginning("jq", 9)) == {paths["jq-1.6"], paths["jq-1.7"]}
    assert store.paths.beginning(paths["sed"].hash[:8], 9) == [paths["sed"]]
    assert store.paths.beginning(f"{paths['sed'].hash}-se", 9) == [paths["sed"]]
    assert store.paths.beginning("", 2) == [info.path for info in infos[:2]]
    # No pattern: neither of LIKE nor of GLOB.
    assert store.paths.beginning("j_", 9) == [paths["j_"]]
    assert store.paths.beginning("%", 9) == store.paths.beginning("*", 9) == []


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
        statement = (
            "INSERT INTO path (hash, name, node, nar_hash, nar_size, registered, used, epoch)"
            f" VALUES ('h', 'n', x'', {values}, 0, 0, 1)"
        )
        with pytest.raises(sqlite3.IntegrityError):
            store.database.connection.execute(statement)


def _used(store: Store) -> dict[str, tuple[int, int]]:
    """Time and epoch of the last use, by hash."""
    rows = store.database.connection.execute("SELECT hash, used, epoch FROM path")
    return {digits: (used, epoch) for digits, used, epoch in rows}


def _end_epoch(store: Store) -> None:
    with store.database.transaction() as conn:
        conn.execute("update epoch set number = number + 1")


def _set_used(store: Store, seconds: int) -> None:
    store.database.connection.execute("UPDATE path SET used = ?", (seconds,))


def _now() -> int:
    return int(time.time())


def test_a_new_path_is_in_use(store: Store) -> None:
    info = link_info("first")
    _end_epoch(store)
    before = _now()
    insert(store, info)
    used, epoch = _used(store)[info.path.hash]
    assert before <= used <= _now()
    assert epoch == 2


def test_touch_after_the_end_of_an_epoch(store: Store) -> None:
    first, second = link_info("first"), link_info("second")
    insert(store, first, second)
    past = _now() - 1000
    _set_used(store, past)
    _end_epoch(store)
    store.paths.touch([first.path])
    found = _used(store)
    assert found[first.path.hash][0] > past
    assert found[first.path.hash][1] == 2
    assert found[second.path.hash] == (past, 1)


def test_touch_after_more_than_a_day(store: Store) -> None:
    info = link_info("first")
    insert(store, info)
    _set_used(store, _now() - 90_000)
    store.paths.touch([info.path])
    assert _used(store)[info.path.hash][0] > _now() - 1000


def test_touch_writes_only_if_it_has_to(store: Store) -> None:
    infos = [link_info(f"{number}") for number in range(5)]
    insert(store, *infos)
    changes = store.database.connection.total_changes
    # With the lock of another writer it would have to wait.
    with Store.open(store.root) as other, other.database.transaction():
        store.paths.touch(info.path for info in infos)
        store.paths.touch([])
    assert store.database.connection.total_changes == changes


def test_touch_never_sets_the_clock_back(store: Store) -> None:
    info = link_info("first")
    insert(store, info)
    future = _now() + 100_000
    _set_used(store, future)
    _end_epoch(store)
    store.paths.touch([info.path])
    assert _used(store)[info.path.hash] == (future, 2)


def test_touch_of_what_is_not_there(store: Store) -> None:
    info = link_info("first")
    insert(store, info)
    _set_used(store, 5)
    with pytest.raises(PathNotFound, match=OTHER.base) as caught:
        store.paths.touch([info.path, OTHER])
    assert caught.value.hint
    assert _used(store) == {info.path.hash: (5, 1)}


def test_inserting_again_is_a_use(store: Store) -> None:
    info = link_info("first")
    insert(store, info)
    _set_used(store, 5)
    _end_epoch(store)
    insert(store, info)
    used, epoch = _used(store)[info.path.hash]
    assert used > 5
    assert epoch == 2


def test_an_id_is_never_used_again(store: Store) -> None:
    seen = []
    for number in range(3):
        insert(store, link_info(f"{number}"))
        (id,) = store.database.connection.execute("SELECT id FROM path").fetchone()
        seen.append(id)
        store.database.connection.execute("DELETE FROM path")
    assert seen == sorted(set(seen))
