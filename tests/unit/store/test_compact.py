"""Compaction: nothing is lost by it, readers need not notice, and the space comes back."""

from __future__ import annotations

import os
import random
import tempfile
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.castore.blobs import BlobRow
from eka_runtime.castore.digest import B3Digest
from eka_runtime.errors import StoreCorrupt
from eka_runtime.store.compact import Compacted, compact
from eka_runtime.store.gc import collect
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.roots import Root
from eka_runtime.store.store import Store
from eka_runtime.view.bind import BindView
from tests.crash import Print, die_at, nursery
from tests.stores import assert_clean, problems
from tests.unit.castore import harm
from tests.unit.castore.local import running
from tests.unit.nix.trees import File, directory, to_nar
from tests.unit.store.graphs import LARGE, SMALL, Item, add, graphs, held, needed, path, read

TEXT = b"the same again and again\n" * 100
NOISE = random.Random(0).randbytes(5000)
TREE = directory(t=File(TEXT), n=File(NOISE), l=File(LARGE[0]), e=File(b""), s=File(SMALL[5] * 9))
NOTHING = Compacted(0, 0, 0)


def _keep(store: Store, info: PathInfo) -> PathInfo:
    store.roots.add(Root(info.path.name, "named", b"", (info.path,)))
    return info


def _row(store: Store, data: bytes) -> BlobRow:
    row = store.blobs.row(B3Digest.of(data))
    assert row is not None
    return row


def _space(store: Store) -> int:
    os.sync()
    return sum(place.stat().st_blocks * 512 for place in store.layout.packs.iterdir())


def test_only_what_becomes_smaller_is_moved(store: Store) -> None:
    info = add(store, "p", TREE)
    before = {row.digest: row for row in store.blobs.rows()}
    done = compact(store)
    small = (TEXT, SMALL[5] * 9)
    assert (done.blobs, done.before) == (2, sum(map(len, small)))
    assert done.after < done.before / 5
    after = {row.digest: row for row in store.blobs.rows()}
    assert {digest for digest in after if after[digest] != before[digest]} == {
        B3Digest.of(data) for data in small
    }
    stored = [_row(store, data).stored for data in small]
    assert sum(size or 0 for size in stored) == done.after
    assert read(store, info) == to_nar(TREE)
    assert compact(store) == NOTHING


@settings(max_examples=30)
@given(graphs(), st.sets(st.integers(0, 6)), st.integers(1, 19))
def test_nothing_is_lost(items: tuple[Item, ...], shown: set[int], level: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        with Store.open(Path(place, "store")) as store:
            infos = [add(store, str(number), item.tree) for number, item in enumerate(items)]
            BindView(store).check_out([info for n, info in enumerate(infos) if n in shown])
            compact(store, level=level)
            for info, item in zip(infos, items, strict=True):
                assert read(store, info) == to_nar(item.tree)
                _keep(store, info)
            BindView(store).check_out(infos)
            collect(store)
            assert held(store)._replace(checkouts=set()) == needed(store)
            for info, item in zip(infos, items, strict=True):
                assert read(store, info) == to_nar(item.tree)
        assert_clean(Path(place, "store"))


def test_blobs_with_twins_stay_as_they_are(store: Store) -> None:
    other = b"not shown anywhere\n" * 50
    info = add(store, "p", directory(r=File(TEXT), x=File(SMALL[5] * 9, executable=True)))
    add(store, "q", File(other))
    BindView(store).check_out([info])
    before = [_row(store, data) for data in (TEXT, SMALL[5] * 9)]
    assert compact(store).blobs == 1
    assert [_row(store, data) for data in (TEXT, SMALL[5] * 9)] == before
    assert _row(store, other).stored


def test_a_view_of_what_was_compressed(store: Store) -> None:
    info = add(store, "p", TREE)
    compact(store)
    BindView(store).check_out([info])
    checkout = store.layout.bind_view / info.path.base
    assert (checkout / "t").read_bytes() == TEXT
    assert (checkout / "n").read_bytes() == NOISE


def test_adding_what_was_compressed_writes_nothing(store: Store) -> None:
    add(store, "p", TREE)
    compact(store)
    rows = list(store.blobs.rows())
    again = add(store, "q", TREE)
    assert list(store.blobs.rows()) == rows
    assert read(store, again) == to_nar(TREE)


def test_damaged_contents_are_never_compressed(tmp_path: Path) -> None:
    with Store.open(tmp_path / "damaged") as store:
        info = add(store, "p", File(TEXT))
        harm.change(store.blobs, _row(store, TEXT))
        before = _row(store, TEXT)
        with pytest.raises(StoreCorrupt):
            compact(store)
        assert _row(store, TEXT) == before
        with pytest.raises(StoreCorrupt):
            read(store, info)
        # And whoever tried is still at work.
        with Store.open(store.root) as other:
            assert collect(other).paths == 0


def test_space_comes_back_when_nobody_may_read_there_any_more(store: Store) -> None:
    texts = [os.urandom(100).hex().encode() * 200 for _ in range(30)]
    info = _keep(
        store, add(store, "p", directory(**{f"f{n}": File(t) for n, t in enumerate(texts)}))
    )
    store.blobs.appender.reset()
    before = _space(store)
    with Store.open(store.root) as reader:
        rows = list(reader.blobs.rows())
        done = compact(store)
        assert done.blobs == 30
        # He may be on his way to where they were.
        for row in rows:
            assert row.stored is None
            reader.blobs.verify_row(row)
        collect(store)
        for row in rows:
            reader.blobs.verify_row(row)
    collect(store)
    assert _space(store) <= before - done.before + done.after + 3 * 4096
    assert problems(store) == []
    assert read(store, info)


def test_alone_it_gives_the_space_back_itself(store: Store) -> None:
    add(store, "p", directory(t=File(TEXT * 20), n=File(NOISE)))
    store.blobs.appender.reset()
    before = _space(store)
    compact(store)
    assert _space(store) < before


_READER = """
    from pathlib import Path
    from eka_runtime.store.store import Store

    with Store.open(Path(sys.argv[2]), create=False) as store:
        rows = list(store.blobs.rows())
        print("ready", flush=True)
        sys.stdin.readline()
        for row in rows:
            store.blobs.verify_row(row)
        assert all(row.stored is None for row in rows)
        for info in store.paths.all():
            store.write_nar(info.path, lambda piece: None)
        assert any(row.stored for row in store.blobs.rows())
        print("right", flush=True)
"""


def test_another_process_that_read_rows_before(store: Store) -> None:
    _keep(store, add(store, "p", TREE))
    store.blobs.appender.reset()
    with running(_READER, store.root) as process:
        compact(store)
        collect(store)
        assert process.communicate(b"\n")[0] == b"right\n"
        assert process.returncode == 0


def test_what_is_collected_was_freed_as_it_is(store: Store) -> None:
    """Bytes of contents, not of what they take."""
    add(store, "p", TREE)
    compact(store)
    size = len(TEXT + NOISE + LARGE[0] + SMALL[5] * 9)
    assert collect(store)[:3] == (1, 5, size)
    assert held(store) == needed(store)


def test_who_compacted_is_still_at_work(store: Store) -> None:
    add(store, "p", File(TEXT))
    compact(store)
    info = add(store, "q", File(TEXT[::-1]))
    with Store.open(store.root) as other:
        collect(other)
    assert read(store, info)


def test_progress(store: Store) -> None:
    add(store, "p", TREE)
    seen: list[tuple[int, int]] = []
    done = compact(store, progress=lambda *now: seen.append(now))
    assert seen == [(done.blobs, done.before)]


def work(arguments: list[str], tell: Print) -> None:
    """Compacts, and dies at the change of the given number."""
    with Store.open(Path(arguments[0])) as store:
        die_at(int(arguments[1]), store.database.connection)
        compact(store)


def test_a_compaction_that_is_killed(tmp_path: Path) -> None:
    with nursery("tests.unit.store.test_compact") as children:
        for number in count():
            root = tmp_path / str(number)
            with Store.open(root) as store:
                info = _keep(store, add(store, "p", TREE))
                gone = add(store, "q", File(TEXT + b"more"))
            status = children.start(root, str(number)).wait()
            with Store.open(root) as store:
                assert problems(store) == []
                for one in (info, gone):
                    assert read(store, one)
                compact(store)
                assert read(store, info) == to_nar(TREE)
                collect(store)
                collect(store)
                assert held(store) == needed(store)
                assert {row.pack for row in store.blobs.rows() if not row.name} == {
                    int(name, 16) for name in os.listdir(store.layout.packs)
                }
                assert path("q") not in {one.path for one in store.paths.all()}
            assert_clean(root)
            if not status:
                break
            assert status == -9
        # There were some chances to die.
        assert number > 5
