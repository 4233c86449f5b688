"""Every kind of damage is found, named, and does not hide the next."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from eka_runtime.castore.blobs import BlobRow
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, encode_entry
from eka_runtime.store import verify
from eka_runtime.store.integrity import Integrity
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.store.verify import counted, verify_store
from tests.stores import insert, link_info, problems
from tests.unit.castore.harm import change, container, remove, shorten

both = pytest.mark.parametrize("inside", ["small", "sub/large"], ids=["packed", "file"])


def _info(store: Store) -> PathInfo:
    return next(info for info in store.paths.all() if info.path.name == "tree")


def _row(store: Store, inside: str) -> BlobRow:
    _, node = store.resolve(f"{_info(store).path}/{inside}")
    assert isinstance(node, FileNode)
    row = store.blobs.row(node.digest)
    assert row is not None
    return row


def _execute(store: Store, statement: str, *parameters: object) -> None:
    """Damage that the schema would refuse."""
    store.database.connection.execute("PRAGMA foreign_keys = off")
    store.database.connection.execute(statement, parameters)


def _kinds(store: Store, *, deep: bool) -> list[str]:
    return [problem.kind for problem in problems(store, deep=deep)]


def test_a_sound_store_has_no_problems(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("contents")
    store.add_flat(tmp_path / "file")
    first = link_info("first")
    insert(store, first, link_info("second", [first.path], to_itself=True))
    steps: list[tuple[int, int]] = []
    found = verify_store(
        store, deep=True, report=lambda problem: None, progress=lambda *step: steps.append(step)
    )
    assert found[:-1] == (3, 0, 1, 0, 0)
    assert found.lost == (set(), set(), set())
    assert found.summary() == "3 paths, 1 blob: no problems"
    assert steps[-1] == (1, len("contents"))


@both
def test_changed_contents_are_found_by_the_deep_check(damaged: Store, inside: str) -> None:
    row = _row(damaged, inside)
    change(damaged.blobs, row, at=3)
    assert problems(damaged, deep=False) == []
    (blob,) = problems(damaged)
    assert (blob.kind, blob.subject) == ("blob", str(row.digest))
    assert damaged.blobs.place(row) in blob.detail


@pytest.mark.parametrize("deep", [False, True])
def test_every_missing_file_and_pack_is_named(damaged: Store, deep: bool) -> None:
    rows = [_row(damaged, inside) for inside in ("small", "sub/large")]
    for row in rows:
        remove(damaged.blobs, row)
    found = problems(damaged, deep=deep)
    assert [problem.kind for problem in found] == ["blob", "blob"]
    details = {problem.subject: problem.detail for problem in found}
    for row in rows:
        assert details[str(row.digest)].startswith(damaged.blobs.place(row).partition(",")[0])
        assert details[str(row.digest)].endswith("is missing")


@pytest.mark.parametrize("deep", [False, True])
def test_every_short_file_and_pack_is_named(damaged: Store, deep: bool) -> None:
    small, large = _row(damaged, "small"), _row(damaged, "sub/large")
    for row in (small, large):
        shorten(damaged.blobs, row)
    found = problems(damaged, deep=deep)
    assert [problem.kind for problem in found] == ["blob", "blob"]
    details = {problem.subject: problem.detail for problem in found}
    end = small.start + small.size
    assert "has 499999 bytes" in details[str(large.digest)]
    said = f"ends before byte {end}" if deep else f"ends at {end - 1}, not at {end}"
    assert said in details[str(small.digest)]


def test_a_row_beyond_the_end_of_its_pack(damaged: Store) -> None:
    _execute(damaged, "UPDATE blob SET start = start + 1 WHERE pack IS NOT NULL")
    (found,) = problems(damaged, deep=False)
    assert found.kind == "blob"
    assert "ends at 21, not at 22" in found.detail
    _execute(damaged, "UPDATE blob SET start = 1 << 60 WHERE pack IS NOT NULL")
    assert _kinds(damaged, deep=True) == ["blob"]


def test_a_row_that_leads_to_the_contents_of_another(damaged: Store) -> None:
    _execute(damaged, "UPDATE blob SET start = 3 WHERE pack IS NOT NULL")
    assert _kinds(damaged, deep=False) == []
    assert _kinds(damaged, deep=True) == ["blob"]


@both
def test_a_file_that_is_no_file(damaged: Store, inside: str) -> None:
    row = _row(damaged, inside)
    place = container(damaged.blobs, row)
    remove(damaged.blobs, row)
    place.symlink_to("/dev/null")
    assert "blob" in _kinds(damaged, deep=True)
    place.unlink()
    place.mkdir()
    assert "blob" in _kinds(damaged, deep=True)


def test_files_without_a_row_are_no_problem(damaged: Store) -> None:
    (damaged.layout.blobs / "zz").mkdir()
    (damaged.layout.blobs / "zz" / "left-by-a-crash").write_bytes(b"x")
    found = verify_store(damaged, deep=True, report=lambda problem: None)
    assert (found.orphans, found.problems) == (1, 0)
    assert found.summary().endswith("1 unused file: no problems")
    (damaged.layout.packs / "0123456789ab").write_bytes(b"eka-pack 1")
    found = verify_store(damaged, deep=True, report=lambda problem: None)
    assert (found.orphans, found.problems) == (2, 0)


def test_what_is_marked_is_checked_like_everything_else(damaged: Store) -> None:
    _execute(damaged, "UPDATE blob SET dead = 1")
    _execute(damaged, "UPDATE directory SET dead = 1")
    change(damaged.blobs, _row(damaged, "small"))
    assert "blob" in _kinds(damaged, deep=True)


@pytest.mark.parametrize("scan", [0, 1 << 30], ids=["looked up", "scanned"])
def test_a_missing_blob_row(damaged: Store, scan: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_SCAN_MAX", scan)
    _execute(damaged, "DELETE FROM blob WHERE size = 5")
    found = problems(damaged, deep=False)
    assert [problem.kind for problem in found] == ["directory"]
    assert "entry small: blob" in found[0].detail
    assert "is missing" in found[0].detail


def test_a_missing_directory(damaged: Store) -> None:
    _execute(damaged, "DELETE FROM directory")
    found = problems(damaged, deep=False)
    assert [problem.kind for problem in found] == ["path"]
    assert "directory" in found[0].detail
    assert _kinds(damaged, deep=True) == ["path"]


def test_a_missing_subdirectory_is_named_by_its_parent(damaged: Store) -> None:
    _, node = damaged.resolve(f"{_info(damaged).path}/sub")
    assert isinstance(node, DirectoryNode)
    _execute(damaged, "DELETE FROM directory WHERE digest = ?", node.digest)
    (found,) = problems(damaged, deep=False)
    assert found.kind == "directory"
    assert found.detail.startswith("entry sub: directory")


def test_a_changed_directory(damaged: Store) -> None:
    _execute(damaged, "UPDATE directory SET data = x''")
    kinds = _kinds(damaged, deep=False)
    assert kinds == ["directory", "directory", "path"]


@pytest.mark.parametrize(
    ("kind", "columns", "values"),
    [
        ("blob", "digest, name, size", "x'00', 'aa/b', 1"),
        ("blob", "digest, pack, start, size", "x'00', 1, 16, 1"),
        ("directory", "digest, data", "x'00', x''"),
    ],
)
def test_a_digest_that_is_none(damaged: Store, kind: str, columns: str, values: str) -> None:
    _execute(damaged, f"INSERT INTO {kind} ({columns}) VALUES ({values})")
    assert [(one.kind, one.subject) for one in problems(damaged)] == [(kind, "0x00")]


def test_a_size_that_does_not_fit(damaged: Store) -> None:
    info = _info(damaged)
    assert isinstance(info.node, DirectoryNode)
    wrong = DirectoryNode(info.node.digest, info.node.size + 1)
    _execute(damaged, "UPDATE path SET node = ?", encode_entry(wrong))
    found = problems(damaged, deep=False)
    assert {(one.kind, one.subject) for one in found} == {("path", str(info.path))}
    details = "\n".join(one.detail for one in found)
    assert f"has size {info.node.size}, not {info.node.size + 1}" in details


def test_a_damaged_path_info(damaged: Store) -> None:
    insert(damaged, link_info("sound"))
    _execute(damaged, "UPDATE path SET node = x'00' WHERE ca IS NOT NULL AND name = 'tree'")
    assert _kinds(damaged, deep=True) == ["path"]


@pytest.mark.parametrize(
    ("ca", "detail"),
    [
        ("nonsense", "nonsense"),
        ("fixed:sha256:" + "0" * 52, "belongs to"),
        ("fixed:r:sha256:" + "0" * 52, "belongs to"),
    ],
)
def test_a_content_address_of_something_else(damaged: Store, ca: str, detail: str) -> None:
    _execute(damaged, "UPDATE path SET ca = ?", ca)
    (found,) = problems(damaged, deep=False)
    assert found.kind == "path"
    assert detail in found.detail


@pytest.mark.parametrize("ca", [True, False])
@pytest.mark.parametrize("change", ["nar_hash = zeroblob(32)", "nar_size = nar_size + 8"])
@pytest.mark.parametrize("deep", [False, True])
def test_another_nar_than_was_added(damaged: Store, change: str, ca: bool, deep: bool) -> None:
    _execute(damaged, f"UPDATE path SET {change}" + ", ca = NULL" * (not ca))
    found = problems(damaged, deep=deep)
    assert {(one.kind, one.subject) for one in found} == {("path", str(_info(damaged).path))}


@pytest.mark.parametrize("deep", [False, True])
def test_another_node_than_was_added(damaged: Store, tmp_path: Path, deep: bool) -> None:
    (tmp_path / "other").mkdir()
    other = damaged.add_tree(tmp_path / "other").node
    assert problems(damaged, deep=deep) == []
    _execute(damaged, "UPDATE path SET node = ? WHERE name = 'tree'", encode_entry(other))
    found = problems(damaged, deep=deep)
    assert {(one.kind, one.subject) for one in found} == {("path", str(_info(damaged).path))}


def test_a_reference_to_nothing(damaged: Store) -> None:
    first = link_info("first")
    second = link_info("second", [first.path])
    insert(damaged, first, second)
    _execute(damaged, "DELETE FROM path WHERE hash = ?", first.path.hash)
    found = problems(damaged, deep=False)
    assert ("reference", second.path.base) in [(one.kind, one.subject) for one in found]


def test_a_database_whose_pages_are_damaged(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        insert(store, *(link_info(f"{number}/" * 20) for number in range(500)))
        database = store.layout.database
    size = database.stat().st_size
    with open(database, "r+b") as file:
        file.seek(4096 * 16)
        file.write(b"\xaa" * (size - 4096 * 16))
    with Store.open(tmp_path / "store") as store:
        assert set(_kinds(store, deep=True)) >= {"database"}


def test_problems_of_all_kinds_at_once(damaged: Store) -> None:
    first = link_info("first")
    insert(damaged, first, link_info("second", [first.path]))
    change(damaged.blobs, _row(damaged, "small"))
    remove(damaged.blobs, _row(damaged, "sub/large"))
    lonely = Directory.build([(b"x", FileNode(next(damaged.blobs.rows()).digest, 1))])
    _execute(
        damaged,
        "INSERT INTO directory (digest, data) VALUES (?, ?)",
        lonely.digest,
        lonely.encode(),
    )
    _execute(damaged, "UPDATE path SET ca = 'nonsense' WHERE name = 'tree'")
    _execute(damaged, "DELETE FROM path WHERE hash = ?", first.path.hash)
    # Of a directory that no path needs, what is below may be on its way in.
    assert set(_kinds(damaged, deep=True)) == {"reference", "path", "blob"}
    _execute(damaged, "UPDATE path SET node = ? WHERE name = 'tree'", encode_entry(lonely.node))
    assert set(_kinds(damaged, deep=True)) == {"reference", "directory", "path", "blob"}


def test_verifying_changes_nothing(damaged: Store) -> None:
    remove(damaged.blobs, _row(damaged, "small"))
    before = damaged.database.connection.total_changes
    assert problems(damaged)
    assert not damaged.database.connection.in_transaction
    assert damaged.database.connection.total_changes == before
    assert os.listdir(damaged.layout.tmp) == []


def test_counted() -> None:
    assert [counted(number, "blob") for number in (0, 1, 2)] == ["0 blobs", "1 blob", "2 blobs"]


def test_an_interrupted_check_of_the_database_ends(store: Store) -> None:
    conn = store.database.connection
    conn.execute("create table many (text)")
    conn.execute("create index many_text on many (text)")
    conn.execute(
        "with recursive n (i) as (select 0 union all select i + 1 from n where i < 200000)"
        " insert into many select hex(randomblob(8)) from n"
    )
    with Integrity(store.database, deep=True) as integrity:
        assert integrity.problems() == []
    with Integrity(store.database, deep=True):
        pass
    assert not [one for one in threading.enumerate() if one.name == "eka-integrity"]
    conn.execute("drop table many")
