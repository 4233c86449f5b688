"""Every kind of damage is found, named, and does not hide the next."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, encode_entry
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.store.verify import counted, verify_store
from tests.stores import insert, link_info, problems


def _info(store: Store) -> PathInfo:
    return next(info for info in store.paths.all() if info.path.name == "tree")


def _file(store: Store, inside: str) -> Path:
    _, node = store.resolve(f"{_info(store).path}/{inside}")
    assert isinstance(node, FileNode)
    place = store.blobs.path(node.digest)
    assert place is not None
    place.chmod(0o644)
    return place


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
    assert found == (3, 0, 1, 0, 0)
    assert found.summary() == "3 paths, 1 blob: no problems"
    sizes = sum(info.nar_size for info in store.paths.all())
    assert steps[-1] == (4, sizes + len("contents"))


def test_changed_contents_are_found_by_the_deep_check(damaged: Store) -> None:
    _file(damaged, "small").write_bytes(b"SMALL")
    assert problems(damaged, deep=False) == []
    blob, nar = problems(damaged)
    assert (blob.kind, nar.kind) == ("blob", "nar")
    assert blob.subject in blob.detail
    assert nar.subject == str(_info(damaged).path)


@pytest.mark.parametrize("deep", [False, True])
def test_every_missing_or_short_file_is_named(damaged: Store, deep: bool) -> None:
    large, small = _file(damaged, "sub/large"), _file(damaged, "small")
    large.unlink()
    small.write_bytes(b"sma")
    found = problems(damaged, deep=deep)
    assert [problem.kind for problem in found if problem.kind != "nar"] == ["blob", "blob"]
    details = "\n".join(problem.detail for problem in found)
    assert f"{large} is missing" in details
    assert f"{small} has 3 bytes, not 5" in details
    assert ("nar" in [problem.kind for problem in found]) == deep


def test_a_file_that_is_no_file(damaged: Store) -> None:
    place = _file(damaged, "small")
    place.unlink()
    place.symlink_to("/etc/passwd")
    assert "blob" in _kinds(damaged, deep=False)
    place.unlink()
    place.mkdir()
    assert "blob" in _kinds(damaged, deep=False)


def test_files_without_a_row_are_no_problem(damaged: Store) -> None:
    (damaged.layout.blobs / "zz").mkdir()
    (damaged.layout.blobs / "zz" / "left-by-a-crash").write_bytes(b"x")
    found = verify_store(damaged, deep=True, report=lambda problem: None)
    assert (found.orphans, found.problems) == (1, 0)
    assert found.summary().endswith("1 unused file: no problems")


def test_a_missing_blob_row(damaged: Store) -> None:
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
    assert _kinds(damaged, deep=True) == ["path", "nar"]


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
    ("kind", "values"), [("blob", "x'00', 'aa/b', 1"), ("directory", "x'00', x''")]
)
def test_a_digest_that_is_none(damaged: Store, kind: str, values: str) -> None:
    _execute(damaged, f"INSERT INTO {kind} VALUES ({values})")
    assert [(one.kind, one.subject) for one in problems(damaged)] == [(kind, "0x00")]


def test_a_size_that_does_not_fit(damaged: Store) -> None:
    info = _info(damaged)
    assert isinstance(info.node, DirectoryNode)
    wrong = DirectoryNode(info.node.digest, info.node.size + 1)
    _execute(damaged, "UPDATE path SET node = ?", encode_entry(wrong))
    (found,) = problems(damaged, deep=False)
    assert (found.kind, found.subject) == ("path", str(info.path))
    assert f"has size {info.node.size}, not {info.node.size + 1}" in found.detail


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


def test_another_nar_hash(damaged: Store) -> None:
    _execute(damaged, "UPDATE path SET nar_hash = zeroblob(32)")
    assert _kinds(damaged, deep=False) == ["path"]
    assert _kinds(damaged, deep=True) == ["path", "nar"]


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
    _file(damaged, "small").write_bytes(b"SMALL")
    _file(damaged, "sub/large").unlink()
    lonely = Directory.build([(b"x", FileNode(next(damaged.blobs.rows()).digest, 1))])
    _execute(damaged, "INSERT INTO directory VALUES (?, ?)", lonely.digest, lonely.encode())
    _execute(damaged, "UPDATE path SET ca = 'nonsense' WHERE name = 'tree'")
    _execute(damaged, "DELETE FROM path WHERE hash = ?", first.path.hash)
    assert set(_kinds(damaged, deep=True)) == {"reference", "directory", "path", "blob", "nar"}


def test_verifying_changes_nothing(damaged: Store) -> None:
    _file(damaged, "small").unlink()
    before = damaged.database.connection.total_changes
    assert problems(damaged)
    assert not damaged.database.connection.in_transaction
    assert damaged.database.connection.total_changes == before
    assert os.listdir(damaged.layout.tmp) == []


def test_counted() -> None:
    assert [counted(number, "blob") for number in (0, 1, 2)] == ["0 blobs", "1 blob", "2 blobs"]
