"""NARs that lie in packs as they are: the same bytes, no matter what becomes of packs and rows."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given

from eka_runtime.castore import database, recorder
from eka_runtime.castore import tree as tree_module
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.extents import Extent, cuts_of, extents_of, intact_extents, read_extents
from eka_runtime.castore.ingest import ingest_nar
from eka_runtime.castore.node import DirectoryNode
from eka_runtime.castore.packs import HEADER, pack_name
from eka_runtime.errors import StoreCorrupt
from eka_runtime.nix.tokens import NarReader
from eka_runtime.store.compact import compact
from eka_runtime.store.gc import collect
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.roots import Root
from eka_runtime.store.store import Store
from eka_runtime.store.transfer import nar_stream
from tests.stores import assert_clean, problems
from tests.unit.castore import harm
from tests.unit.castore.test_ingest import NASTY
from tests.unit.nix.trees import Dir, File, Link, Tree, directory, in_pieces, to_disk, to_nar, trees
from tests.unit.store.graphs import LARGE, path, read

# Again, with trees so small that they would have no extents: these two say what must always hold.
from tests.unit.store.test_compact import test_nothing_is_lost  # noqa: F401
from tests.unit.store.test_gc import test_exactly_what_no_root_reaches_goes  # noqa: F401

NOISE = random.Random(0).randbytes(1 << 16)


@pytest.fixture(autouse=True, scope="module")
def tiny() -> Iterator[None]:
    """Everything has extents, of a few hundred bytes each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_FLUSH": 300, "_WORTH": 0, "_AGAIN_MIN": 1000}.items():
            patch.setattr(recorder, name, value)
        yield


def _files(first: int, number: int, size: int = 200) -> Dir:
    """Contents that nobody else has."""
    return Dir(
        tuple(
            (b"%04d" % n, File(random.Random(n).randbytes(size), n % 2 == 0))
            for n in range(first, first + number)
        )
    )


MIXED = directory(a=_files(0, 9), b=File(LARGE[0]), c=Link(b"a/0000"), d=NASTY, e=_files(9, 5))


def add(store: Store, name: str, tree: Tree) -> PathInfo:
    with store.batch() as batch:
        ingested = ingest_nar(batch, NarReader(in_pieces(to_nar(tree), 100)))
        return store.commit(batch, PathInfo(path(name), *ingested))


def _extents(store: Store, info: PathInfo) -> list[Extent]:
    assert isinstance(info.node, DirectoryNode)
    return extents_of(store.database.connection, info.node.digest)


def _from_extents(store: Store, info: PathInfo) -> bytes:
    return b"".join(read_extents(store.blobs, _extents(store, info)))


def _root(store: Store, *infos: PathInfo) -> None:
    store.roots.add(Root("kept", "named", b"", tuple(info.path for info in infos)))


def _place(store: Store, one: Extent) -> Path:
    return store.layout.packs / pack_name(one.pack)


@contextmanager
def _damaged(store: Store, one: Extent) -> Iterator[None]:
    """In the first byte that is no contents."""
    rows = [row for row in store.blobs.rows() if row.pack == one.pack and not row.name]
    contents = {at for row in rows for at in range(row.start, row.start + row.size)}
    at = min(set(range(one.start, one.start + one.size)) - contents)
    with open(_place(store, one), "r+b", buffering=0) as pack:
        [byte] = os.pread(pack.fileno(), 1, at)
        os.pwrite(pack.fileno(), bytes([byte ^ 1]), at)
        yield
        os.pwrite(pack.fileno(), bytes([byte]), at)


@given(trees)
def test_any_tree(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as place:
        source = to_disk(tree, Path(place, "source"))
        with Store.open(Path(place, "store")) as store, Store.open(Path(place, "other")) as other:
            for one, info in ((store, store.add_tree(source)), (other, add(other, "p", tree))):
                assert read(one, info) == to_nar(tree)
                if isinstance(info.node, DirectoryNode) and _extents(one, info):
                    assert _from_extents(one, info) == to_nar(tree)
        for name in ("store", "other"):
            assert_clean(Path(place, name))


@pytest.mark.parametrize("helped", [False, True])
def test_large_files_are_parts_of_their_own(
    store: Store, tmp_path: Path, helped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "HELPED_FROM", 1 if helped else 1 << 30)
    monkeypatch.setattr(tree_module, "may_fork", lambda: True)
    huge = File(NOISE * 20)
    tree = directory(a=MIXED, b=huge, c=File(LARGE[1]), d=_files(20, 3), e=File(LARGE[2]))
    for info in (store.add_tree(to_disk(tree, tmp_path / "tree")), add(store, "p", tree)):
        assert _from_extents(store, info) == read(store, info) == to_nar(tree)
    cuts = [cut for one in _extents(store, info) for cut in cuts_of(one)]
    assert [cut.size for cut in cuts] == [len(LARGE[0]), len(huge.contents), *map(len, LARGE[1:])]


def test_the_same_tree_under_another_name_has_the_same_extents(store: Store) -> None:
    first, second = add(store, "p", MIXED), add(store, "q", MIXED)
    assert _extents(store, first) == _extents(store, second) != []


def test_a_few_known_contents_are_written_again(store: Store) -> None:
    add(store, "p", _files(0, 3))
    info = add(store, "q", _files(1, 30))
    assert _from_extents(store, info) == to_nar(_files(1, 30))


def test_of_what_is_known_mostly_only_the_new_is_written(store: Store) -> None:
    add(store, "p", _files(0, 40))
    before = sum(place.stat().st_size for place in store.layout.packs.iterdir())
    info = add(store, "q", _files(10, 40))
    assert _extents(store, info) == []
    assert read(store, info) == to_nar(_files(10, 40))
    after = sum(place.stat().st_size for place in store.layout.packs.iterdir())
    # Up to _AGAIN_MIN was written again, until that was known.
    assert after - before < 10 * 200 + 1000 + 1500


def test_one_file_many_times(store: Store) -> None:
    tree = Dir(tuple((b"%d" % n, File(b"again")) for n in range(10)))
    info = add(store, "p", tree)
    assert _from_extents(store, info) == to_nar(tree)
    assert len(list(store.blobs.rows())) == 1


def test_what_is_small_altogether_has_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_FLUSH": 1 << 20, "_WORTH": 1 << 17}.items():
        monkeypatch.setattr(recorder, name, value)
    info = add(store, "p", directory(a=File(b"a" * 50), b=File(b"b" * 50)))
    assert _extents(store, info) == []
    [pack] = store.layout.packs.iterdir()
    store.blobs.appender.drain()
    assert pack.read_bytes() == HEADER + b"a" * 50 + b"b" * 50


def test_damage_between_contents_does_no_harm(store: Store) -> None:
    info = add(store, "p", MIXED)
    extents = _extents(store, info)
    assert len(extents) > 5
    for number, one in enumerate(extents):
        with _damaged(store, one):
            sound = sum(before.nar_size for before in extents[:number])
            assert _from_extents(store, info) == to_nar(MIXED)[:sound]
            assert read(store, info) == to_nar(MIXED)
            assert b"".join(nar_stream(store, info)) == to_nar(MIXED)
            assert problems(store) == []
    assert b"".join(nar_stream(store, info)) == to_nar(MIXED)
    assert _from_extents(store, info) == to_nar(MIXED)


@pytest.mark.parametrize("lie", ["size = size", "size = 1 << 40", "start = 16, size = 1 << 40"])
def test_damaged_contents_are_found(damaged: Store, lie: str) -> None:
    info = add(damaged, "p", _files(0, 20))
    damaged.database.connection.execute(f"update extent set {lie} where nth = 0")
    row = damaged.blobs.row(B3Digest.of(random.Random(7).randbytes(200)))
    assert row is not None
    harm.change(damaged.blobs, row)
    with pytest.raises(StoreCorrupt, match="its NAR has another hash"):
        read(damaged, info)
    [problem] = problems(damaged)
    assert (problem.kind, problem.subject) == ("blob", str(row.digest))


@pytest.mark.parametrize(
    "change",
    ["start = start + 1", "start = start - 8", "size = size - 1", "size = size + 8"],
)
def test_a_row_that_is_not_what_was_written_is_found(damaged: Store, change: str) -> None:
    add(damaged, "p", _files(0, 20))
    digest = B3Digest.of(random.Random(7).randbytes(200))
    damaged.database.connection.execute(f"update blob set {change} where digest = ?", (digest,))
    assert ("blob", str(digest)) in [(one.kind, one.subject) for one in problems(damaged)]


def test_two_rows_that_changed_places_are_found(damaged: Store) -> None:
    add(damaged, "p", _files(0, 20))
    conn = damaged.database.connection
    first, second = (B3Digest.of(random.Random(n).randbytes(200)) for n in (7, 8))
    starts = [
        conn.execute("select start from blob where digest = ?", (one,)).fetchone()[0]
        for one in (first, second)
    ]
    for digest, start in zip((first, second), reversed(starts), strict=True):
        conn.execute("update blob set start = ? where digest = ?", (start, digest))
    assert {one.subject for one in problems(damaged)} == {str(first), str(second)}


def test_an_extent_that_a_row_lies_about_does_no_harm(store: Store) -> None:
    info = add(store, "p", MIXED)
    for change in (
        "size = size + 1",
        "start = 1 << 40",
        "size = 1 << 40",
        "sum = x'00'",
        "rows = x''",
        "cuts = x'00'",
    ):
        store.database.connection.execute(f"update extent set {change}")
        assert read(store, info) == to_nar(MIXED)
        assert problems(store) == []


def _counted(store: Store) -> tuple[int, int]:
    steps: list[tuple[int, int]] = []
    store.verify(deep=True, report=print, progress=lambda *step: steps.append(step))
    return steps[-1]


def test_all_blobs_are_counted_with_and_without_extents(store: Store) -> None:
    info = add(store, "p", _files(0, 40))
    add(store, "q", _files(30, 100))
    counts = [_counted(store)]
    store.database.connection.execute("delete from extent")
    counts.append(_counted(store))
    assert counts == [(130, 130 * 200)] * 2
    assert read(store, info) == to_nar(_files(0, 40))


@pytest.mark.parametrize("edges", [(0, 500), (500, 1000), (1000, 2500), (2500, 1 << 40)])
def test_every_extent_belongs_to_the_part_in_which_it_begins(
    store: Store, edges: tuple[int, int]
) -> None:
    info = add(store, "p", _files(0, 20))
    every = [one for one in _extents(store, info) if edges[0] <= one.start < edges[1]]
    assert every
    [pack] = {one.pack for one in every}
    found = intact_extents(store.blobs, store.database.connection, pack, *edges)
    assert [(one.start, one.end) for one in found] == [(e.start, e.start + e.size) for e in every]


def test_what_a_path_does_not_need_goes_around_its_extents(store: Store) -> None:
    """Contents that two paths have, and that lie in the extents of the one that goes, too."""
    gone = add(store, "p", _files(0, 60, 5000))
    kept = add(store, "q", directory(a=_files(100, 60, 5000), b=_files(59, 1, 5000)))
    assert _extents(store, gone)
    assert _extents(store, kept)
    _root(store, kept)
    store.hold.close()
    store.blobs.appender.reset()
    os.sync()
    before = sum(place.stat().st_blocks * 512 for place in store.layout.packs.iterdir())
    with Store.open(store.root) as other:
        assert collect(other).freed == 59 * 5000
        os.sync()
        after = sum(place.stat().st_blocks * 512 for place in store.layout.packs.iterdir())
        assert before - after > 50 * 5000
        assert _extents(other, gone) == []
        assert (
            _from_extents(other, kept)
            == read(other, kept)
            == to_nar(directory(a=_files(100, 60, 5000), b=_files(59, 1, 5000)))
        )


def test_ends_of_packs_that_extents_have_stay(store: Store) -> None:
    """Behind the last contents of a NAR there are its last parentheses."""
    kept = add(store, "p", _files(0, 20))
    _root(store, kept)
    add(store, "q", _files(100, 20))
    store.hold.close()
    store.blobs.appender.reset()
    with Store.open(store.root) as other:
        collect(other)
        assert _from_extents(other, kept) == to_nar(_files(0, 20))


def test_what_is_compressed_has_no_extents_any_more(store: Store) -> None:
    text = Dir(tuple((b"%04d" % n, File(b"%d" % n * 500)) for n in range(20)))
    first, second = add(store, "p", text), add(store, "q", _files(0, 20))
    assert _extents(store, first)
    assert compact(store).blobs == 20
    assert _extents(store, first) == []
    assert read(store, first) == to_nar(text)
    assert read(store, second) == to_nar(_files(0, 20))


def test_two_who_add_the_same_at_once(store: Store) -> None:
    nar = to_nar(MIXED)
    with store.batch() as first, store.batch() as second:
        for batch, piece in ((first, 1 << 20), (second, 100)):
            ingested = ingest_nar(batch, NarReader(in_pieces(nar, piece)))
            info = store.commit(batch, PathInfo(path(f"p{piece}"), *ingested))
    assert _from_extents(store, info) == read(store, info) == nar


def test_an_addition_that_fails_leaves_none(store: Store, tmp_path: Path) -> None:
    tree = to_disk(MIXED, tmp_path / "tree")
    os.mkfifo(tree / "zzz")
    with pytest.raises(Exception, match="fifo"):
        store.add_tree(tree)
    os.unlink(tree / "zzz")
    info = store.add_tree(tree)
    assert _from_extents(store, info) == to_nar(MIXED)


def test_a_store_that_was_made_before_there_were_extents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {
        "name text,": "name text unique,",
        "(pack, start, size, stored)": "(pack, start)",
        "create unique index blob_name": "create index blob_name",
    }
    schema = list(database._SCHEMA)
    for now, then in before.items():
        assert now in "".join(schema)
        schema = [statement.replace(now, then) for statement in schema]
    with monkeypatch.context() as patch:
        patch.setattr(database, "_SCHEMA", schema)
        patch.setattr(recorder, "_WORTH_FILES", 1 << 30)
        patch.setattr(recorder, "_WORTH", 1 << 30)
        patch.setattr(recorder, "_FLUSH", 1 << 30)
        with Store.open(tmp_path / "store") as store:
            first = add(store, "p", _files(0, 20))
            assert store.database.connection.execute(
                "select count(*) from sqlite_schema where name = 'extent'"
            ).fetchone() == (0,)
            assert problems(store) == []
    with Store.open(tmp_path / "store") as store:
        assert read(store, first) == to_nar(_files(0, 20))
        second = add(store, "q", _files(50, 20))
        assert _from_extents(store, second) == to_nar(_files(50, 20))
        _root(store, second)
    with Store.open(tmp_path / "store") as store:
        assert collect(store).freed == 20 * 200
        assert _from_extents(store, second) == to_nar(_files(50, 20))
    assert_clean(tmp_path / "store")
