"""Adding to a store, looking into it, and what happens when the disk under it is not as it was."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import DirectoryNode, FileNode, SymlinkNode
from eka_runtime.errors import (
    CastoreError,
    EkaError,
    InvalidStorePath,
    PathNotFound,
    StoreAccessError,
    StoreCorrupt,
    StoreError,
)
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.path import StorePath, fixed_path, source_path
from eka_runtime.store.pathinfo import read_rows
from eka_runtime.store.store import Store
from tests.stores import link_info
from tests.unit.castore.harm import change, remove
from tests.unit.nix.trees import Dir, File, Link, directory, to_disk, to_nar

TREE = directory(
    empty=Dir(()),
    nothing=File(b""),
    run=File(b"#!/bin/sh\n", executable=True),
    same=File(b"same"),
    sub=directory(same=File(b"same", executable=True), up=Link(b"../run"), away=Link(b"/absent")),
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return to_disk(TREE, tmp_path / "tree")


def _read(store: Store, text: str) -> bytes:
    pieces: list[bytes] = []
    store.write_file(text, pieces.append)
    return b"".join(pieces)


def test_a_tree_has_the_path_of_its_nar(store: Store, tree: Path) -> None:
    info = store.add_tree(tree)
    nar_hash = hashlib.sha256(to_nar(TREE)).digest()
    assert info.path == source_path("tree", nar_hash)
    assert (info.nar_hash, info.nar_size) == (nar_hash, len(to_nar(TREE)))
    assert info.ca == f"fixed:r:{NixHash('sha256', nar_hash).nix32()}"
    assert (info.references, info.deriver, info.signatures) == ((), None, ())
    assert store.info(info.path) == info


def test_a_flat_file_has_the_path_of_its_contents(store: Store, tree: Path) -> None:
    info = store.add_flat(tree / "run")
    digest = hashlib.sha256(b"#!/bin/sh\n").digest()
    assert info.path == fixed_path("run", "sha256", digest, recursive=False)
    assert info.ca == f"fixed:{NixHash('sha256', digest).nix32()}"
    assert info.nar_hash == hashlib.sha256(to_nar(File(b"#!/bin/sh\n"))).digest()


def test_files_and_symlinks_are_trees_too(store: Store, tree: Path) -> None:
    assert isinstance(store.add_tree(tree / "run").node, FileNode)
    assert store.add_tree(tree / "sub" / "up").node == SymlinkNode(b"../run")
    os.symlink(tree, tree.parent / "link")
    assert isinstance(store.add_tree(f"{tree.parent}/link/").node, SymlinkNode)
    assert isinstance(store.add_tree(os.fsencode(f"{tree}/")).node, DirectoryNode)


def test_names(store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert store.add_tree(".").path.name == "tree"
    assert store.add_tree("sub/..", name="other").path.name == "other"
    assert store.add_flat("run", name="a+b-c._?=d").path.name == "a+b-c._?=d"


@pytest.mark.parametrize("name", ["", "a b", "ü", "a/b", "x" * 212, ".", ".."])
def test_a_bad_name_fails_before_anything_is_read(store: Store, name: str) -> None:
    for add in (store.add_tree, store.add_flat):
        with pytest.raises(InvalidStorePath):
            add("/nonexistent/file", name=name)


def test_a_bad_file_name_asks_for_another(store: Store) -> None:
    for source in ("/nonexistent/a b", b"/nonexistent/\xff", "/"):
        with pytest.raises(InvalidStorePath) as caught:
            store.add_tree(source)
        assert caught.value.hint == "give a name with `--name NAME`"


def test_adding_again_changes_nothing(store: Store, tree: Path) -> None:
    first = store.add_tree(tree)
    before = _contents(store)
    assert store.add_tree(tree) == first
    assert store.paths.count() == 1
    assert _contents(store) == before


def _contents(store: Store) -> dict[Path, bytes]:
    """Files and packs, as they are on disk."""
    places = [*store.layout.blobs.rglob("*"), *store.layout.packs.iterdir()]
    return {place: place.read_bytes() for place in places if place.is_file()}


def test_equal_contents_are_kept_once(store: Store, tree: Path) -> None:
    large = b"large" * 20_000
    for place in (tree / "large", tree / "sub" / "large"):
        place.write_bytes(large)
    store.add_tree(tree)
    store.add_tree(tree / "sub", name="part")
    distinct = {b"", b"#!/bin/sh\n", b"same", large}
    assert {row.digest for row in store.blobs.rows()} == {B3Digest.of(data) for data in distinct}
    pack, file = sorted(_contents(store).values(), key=len)
    assert file == large
    assert pack.count(b"same") == pack.count(b"#!/bin/sh\n") == 1


def test_progress_counts_files_and_bytes(store: Store, tree: Path) -> None:
    seen: list[tuple[int, int]] = []
    store.add_tree(tree, progress=lambda files, size: seen.append((files, size)))
    assert seen == sorted(seen)
    store.add_flat(tree / "run", progress=lambda files, size: seen.append((files, size)))


def test_what_is_no_tree_is_refused(store: Store, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    with pytest.raises(CastoreError, match="fifo"):
        store.add_tree(tree)
    for source in (tree, tree / "fifo", tree / "absent"):
        with pytest.raises(EkaError, match=source.name):
            store.add_flat(source)
    assert store.paths.count() == 0


def test_info_says_what_to_do(store: Store) -> None:
    with pytest.raises(PathNotFound, match="is not in the store") as caught:
        store.info(StorePath("0" * 32, "nothing"))
    assert caught.value.hint


def test_resolve_goes_down(store: Store, tree: Path) -> None:
    info = store.add_tree(tree)
    assert store.resolve(str(info.path)) == (info, info.node)
    assert store.resolve(f"{info.path}/") == (info, info.node)
    _, node = store.resolve(f"{info.path}/sub//./same")
    assert isinstance(node, FileNode)
    assert node.executable
    assert store.resolve(f"{info.path}/sub/up")[1] == SymlinkNode(b"../run")


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("absent", "there is no `absent` in `{path}`"),
        ("sub/absent/x", "there is no `absent` in `{path}/sub`"),
        ("run/x", "`{path}/run` is a file"),
        ("sub/up/x", "`{path}/sub/up` is a symbolic link to `../run`"),
        ("sub/away/x", "`{path}/sub/away` is a symbolic link to `/absent`"),
        ("sub/../run", "`{path}/sub/..` leads upwards"),
        ("\udcff", "there is no"),
    ],
)
def test_resolve_names_what_stops_it(store: Store, tree: Path, inside: str, message: str) -> None:
    path = store.add_tree(tree).path
    with pytest.raises(PathNotFound) as caught:
        store.resolve(f"{path}/{inside}")
    assert message.format(path=path) in str(caught.value)


def test_names_that_are_not_utf8(store: Store, tree: Path) -> None:
    (tree / os.fsdecode(b"\xff\n")).write_bytes(b"odd")
    path = store.add_tree(tree).path
    assert _read(store, f"{path}/{os.fsdecode(bytes([255, 10]))}") == b"odd"


def test_write_file(store: Store, tree: Path) -> None:
    path = store.add_tree(tree).path
    assert _read(store, f"{path}/run") == b"#!/bin/sh\n"
    assert _read(store, f"{path}/nothing") == b""
    for inside, kind in (("sub", "directory"), ("sub/up", "symbolic link"), ("", "directory")):
        with pytest.raises(PathNotFound, match=kind):
            _read(store, f"{path}/{inside}")


@pytest.mark.parametrize("inside", ["small", "sub/large"])
def test_write_file_notices_damage(damaged: Store, inside: str) -> None:
    (info,) = damaged.paths.all()
    _, node = damaged.resolve(f"{info.path}/{inside}")
    assert isinstance(node, FileNode)
    change(damaged.blobs, damaged.blobs.rows_of([node.digest])[node.digest])
    with pytest.raises(StoreCorrupt, match="has changed"):
        _read(damaged, f"{info.path}/{inside}")


def test_commit_is_all_or_nothing(store: Store) -> None:
    dangling = link_info("target", [StorePath("0" * 32, "absent")])
    with store.batch() as batch:
        digest = batch.add_blob(b"contents")
        with pytest.raises(StoreError, match="absent"):
            store.commit(batch, dangling)
    assert store.paths.count() == 0
    assert not store.blobs.has(digest)


def test_adding_again_repairs_a_lost_file(store: Store, tree: Path) -> None:
    (tree / "large").write_bytes(b"large" * 20_000)
    store.add_tree(tree)
    for row in store.blobs.rows():
        if row.name:
            remove(store.blobs, row)
    store.add_tree(tree)


@contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(4 << 20))
    with _file_size_limit(1 << 20), pytest.raises(StoreAccessError, match="cannot write"):
        store.add_tree(tmp_path / "big")
    assert store.paths.count() == 0
    assert _contents(store) == {}


def test_packed_contents_that_cannot_be_written_leave_nothing(store: Store, tmp_path: Path) -> None:
    store.add_flat(_written(tmp_path / "first", b"first"))
    many = tmp_path / "many"
    many.mkdir()
    for number in range(100):
        _written(many / f"{number}", os.urandom(50_000))
    before = _contents(store)
    with _file_size_limit(2 << 20), pytest.raises(StoreAccessError, match="cannot write"):
        store.add_tree(many)
    assert store.paths.count() == 1
    assert _contents(store) == before
    # The same process goes on as if nothing had been.
    store.add_tree(many)
    store.add_flat(_written(tmp_path / "last", b"last"))


def _written(place: Path, data: bytes) -> Path:
    place.write_bytes(data)
    return place


def test_a_full_database_changes_nothing(store: Store, tree: Path) -> None:
    (pages,) = store.database.connection.execute("PRAGMA page_count").fetchone()
    store.database.connection.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(300):
        to_disk(directory(file=File(b"%d" % number)), tree / f"filler-{number}")
    with pytest.raises(StoreAccessError, match="disk is full") as caught:
        store.add_tree(tree)
    assert caught.value.hint
    assert store.paths.count() == 0
    store.database.connection.execute("PRAGMA max_page_count = 1000000")
    assert store.add_tree(tree).path.name == "tree"


@pytest.mark.parametrize("contents", [b"not a database, " * 1000, b"SQLite format 3\0" * 1000])
def test_a_database_that_is_none(store_dir: Path, contents: bytes) -> None:
    with Store.open(store_dir) as store:
        database = store.layout.database
    kept = database.read_bytes()
    database.write_bytes(contents)
    with pytest.raises(StoreError) as caught:
        Store.open(store_dir)
    assert caught.value.hint
    assert database.read_bytes() == contents
    database.write_bytes(kept)


def test_a_malformed_database_is_corrupt_not_a_crash(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        for number in range(500):
            with store.batch() as batch:
                store.commit(batch, link_info(f"{number}/" * 20))
        database = store.layout.database
    _garble(database)
    paths = [link_info(f"{number}/" * 20).path for number in range(500)]
    with Store.open(tmp_path / "store") as store:
        with pytest.raises(StoreCorrupt) as caught:
            list(store.paths.all())
        assert caught.value.hint
        with pytest.raises(StoreCorrupt):
            store.closure_size(paths)
        with pytest.raises(StoreCorrupt):
            # Unlike the others, this meets its first damaged page after some good ones.
            list(read_rows(store.database, "SELECT * FROM path NOT INDEXED"))


def _garble(database: Path) -> None:
    """Overwrites all pages but the first few, where the schema is."""
    size = database.stat().st_size
    with open(database, "r+b") as file:
        file.seek(4096 * 16)
        file.write(b"\xaa" * (size - 4096 * 16))
