"""Collections beside others who add, want and read: before, during, and after the mark.

A second `Store` is to the first as another process is: it has its own connection and its own hold.
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.ingest import ingest_nar
from eka_runtime.castore.removal import remove_tree
from eka_runtime.castore.render import nar_digest
from eka_runtime.errors import PathNotFound
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.tokens import NarReader
from eka_runtime.store.gc import Collected, collect, preview
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.roots import Root, bundle_root
from eka_runtime.store.store import Store
from eka_runtime.view.bind import BindView
from tests.stores import assert_clean, insert, link_info, problems
from tests.unit.nix.trees import File, Link, Tree, directory, to_nar
from tests.unit.store.graphs import LARGE, SMALL, add, held, needed, path, read

TREE = directory(sub=directory(s=File(SMALL[1]), l=File(LARGE[0])), link=Link(b"sub"))
SAME = directory(again=TREE, s=File(SMALL[1], executable=True))
SIZE = len(SMALL[1] + LARGE[0])


@pytest.fixture
def other(store: Store) -> Iterator[Store]:
    with Store.open(store.root) as opened:
        yield opened


def test_what_somebody_is_at_work_with_stays(store: Store, other: Store) -> None:
    add(other, "p", TREE)
    assert collect(store)[:4] == (0, 0, 0, 0)
    other.close()
    assert collect(store)[:4] == (1, 2, SIZE, 0)


def test_old_paths_go_beside_a_newcomer_but_their_contents_wait(store: Store) -> None:
    info = add(store, "p", TREE)
    _leave(store)
    with Store.open(store.root) as other:
        assert preview(store)[:4] == (1, 2, SIZE, 0)
        assert collect(store)[:4] == (1, 0, 0, SIZE)
        with pytest.raises(PathNotFound):
            other.info(info.path)
        # He has what he looked up before; the next collection does not remove it either.
        assert collect(store)[:4] == (0, 0, 0, SIZE)
        assert _rendered(other, info)
        assert problems(other) == []
    assert collect(store)[:4] == (0, 2, SIZE, 0)
    assert held(store) == needed(store)


def _rendered(store: Store, info: PathInfo) -> bool:
    found = nar_digest(info.node, store.blobs, store.directories)
    return (found.sha256, found.size) == (info.nar_hash, info.nar_size)


def _leave(store: Store) -> None:
    """What is there was wanted by nobody who is still at work."""
    with store.database.transaction() as conn:
        conn.execute("update path set epoch = 0")


def test_a_batch_that_knew_something_before_the_mark_rescues_it(store: Store, other: Store) -> None:
    add(store, "p", TREE)
    _leave(store)
    with other.batch() as batch:
        info = _taken(batch, "q", SAME)
        # Nothing but directories is new to it.
        assert os.listdir(other.layout.tmp) == []
        done = collect(store)
        assert (done.paths, done.blobs, done.pending) == (1, 0, SIZE)
        other.commit(batch, info)
    assert collect(store)[:4] == (0, 0, 0, 0)
    other.roots.add(Root("q", "named", b"", (info.path,)))
    other.close()
    assert collect(store)[:4] == (0, 0, 0, 0)
    assert held(store) == needed(store)
    assert read(store, info)


def _taken(batch: Batch, name: str, tree: Tree) -> PathInfo:
    """What has to be committed with the batch for the path to be there."""
    reader = NarReader(io.BytesIO(to_nar(tree)).read)
    return PathInfo(path(name), *ingest_nar(batch, reader))


def test_who_comes_after_the_mark_writes_anew(store: Store) -> None:
    with ExitStack() as stack:
        old = stack.enter_context(Store.open(store.root))
        info = add(store, "p", TREE)
        _leave(store)
        places = sorted(store.blobs.rows())
        assert collect(store).pending == SIZE
        new = stack.enter_context(Store.open(store.root))
        again = add(new, "q", TREE)
        assert [row.digest for row in new.blobs.rows()] == [row.digest for row in places]
        assert not set(new.blobs.rows()) & set(places)
        # Whoever came before the mark may be reading the first copy.
        for row in places:
            old.blobs.verify_row(row)
        collect(store)
        for row in places:
            old.blobs.verify_row(row)
        assert _rendered(old, info)
        new.roots.add(Root("q", "named", b"", (again.path,)))
    assert collect(store).freed == 0
    assert held(store) == needed(store)
    assert read(store, again)


def test_a_store_that_collected_may_go_on(store: Store, other: Store) -> None:
    """Its own presence is forgotten for a collection, and counts again afterwards."""
    add(store, "p", TREE)
    other.close()
    collect(store)
    add(store, "p", TREE)
    _leave(store)
    with store.batch() as batch:
        info = _taken(batch, "q", SAME)
        with Store.open(store.root) as third:
            collect(third)
        store.commit(batch, info)
    assert read(store, info)
    assert problems(store) == []


def test_an_interrupted_collection_is_finished_by_the_next(store: Store) -> None:
    for number in range(3):
        add(store, f"p{number}", directory(own=File(SMALL[number]), shared=File(LARGE[0])))

    def interrupt(path: StorePath) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(store, report=interrupt)
    # One transaction had deleted all of them, and nothing was marked yet.
    assert collect(store)[:4] == (0, 4, len(SMALL[0] + SMALL[1] + SMALL[2] + LARGE[0]), 0)
    assert held(store) == needed(store)


def _many(store: Store) -> list[PathInfo]:
    """More than one transaction deletes, and after them in the order of deletion: q -> p."""
    p = link_info("p")
    q = link_info("q", [p.path])
    insert(store, p, q, *(link_info(str(number)) for number in range(300)))
    with store.database.transaction() as conn:
        conn.execute("update path set epoch = 0, used = 1000")
        conn.executemany(
            "update path set used = 2000 where hash = ?", [(info.path.hash,) for info in (p, q)]
        )
    return [p, q]


def test_a_path_that_is_wanted_meanwhile_stays_with_its_closure(store: Store) -> None:
    p, q = _many(store)
    gone: list[StorePath] = []
    with Store.open(store.root) as other:

        def want(path: StorePath) -> None:
            if not gone:
                other.paths.touch([q.path])
            gone.append(path)

        assert collect(store, report=want).paths == len(gone) == 300
        assert other.closure([q.path]) == sorted([p.path, q.path])


def test_a_path_that_comes_between_two_looks_stays_with_what_it_needs(store: Store) -> None:
    """While the order is made in which paths go: as many processes at work found out."""
    p = link_info("p")
    insert(store, p)
    _leave(store)
    q = link_info("q", [p.path])
    with Store.open(store.root) as other:

        def add(statement: str) -> None:
            conn = store.database.connection
            if "from reference" in statement and not conn.in_transaction and not other_has():
                insert(other, q)

        def other_has() -> bool:
            return other.paths.get(q.path) is not None

        store.database.connection.set_trace_callback(add)
        collect(store)
        store.database.connection.set_trace_callback(None)
        if not other_has():
            insert(other, p, q)
        assert problems(other) == []


def test_a_path_that_is_added_again_meanwhile_stays_with_its_closure(store: Store) -> None:
    p, q = _many(store)
    gone: list[StorePath] = []

    def again(path: StorePath) -> None:
        if not gone:
            with Store.open(store.root) as other, other.batch() as batch:
                other.commit(batch, q)
        gone.append(path)

    collect(store, report=again)
    assert [info.path for info in store.paths.all()] == sorted([p.path, q.path])


def test_wanting_what_is_gone_says_so(store: Store, other: Store) -> None:
    info = link_info("a")
    insert(store, info)
    _leave(store)
    collect(store)
    with pytest.raises(PathNotFound, match="collected") as caught:
        other.paths.touch([info.path])
    assert caught.value.hint


Action = Callable[[Store, Store], PathInfo | None]
"""What somebody does in the middle of a collection: gets a store that was opened before it, and
one that is opened now; returns the path that he relies on from then on."""


def _add_as_known(before: Store, now: Store) -> PathInfo:
    return add(before, "q", SAME)


def _add_as_new(before: Store, now: Store) -> PathInfo:
    return add(now, "q", SAME)


def _add_the_same(before: Store, now: Store) -> PathInfo:
    return add(now, "p", TREE)


def _want(before: Store, now: Store) -> PathInfo | None:
    info = now.paths.get(path("p"))
    try:
        now.paths.touch([path("p")])
    except PathNotFound:
        return None
    BindView(now).check_out([info or now.info(path("p"))])
    return info


def _at_transaction(store: Store, number: int, action: Callable[[], None]) -> bool:
    """Collects; does the action right before the transaction of this number, if there is one."""
    seen = count()
    done: list[bool] = []

    def trace(statement: str) -> None:
        if statement.startswith("begin") and next(seen) == number:
            done.append(True)
            action()

    store.database.connection.set_trace_callback(trace)
    try:
        collect(store)
    finally:
        store.database.connection.set_trace_callback(None)
    return bool(done)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("action", [_add_as_known, _add_as_new, _add_the_same, _want])
def test_between_any_two_transactions(tmp_path: Path, action: Action, batched: bool) -> None:
    for number in count():
        root = tmp_path / str(number)
        with Store.open(root) as store:
            add(store, "p", TREE)
            BindView(store).check_out(store.paths.all())
            _leave(store)
        if not _interleaved(root, number, action, batched):
            assert number > 4
            return
        assert_clean(root)


def _interleaved(root: Path, number: int, action: Action, batched: bool) -> bool:
    relied: list[PathInfo | None] = []
    with ExitStack() as stack:
        before = stack.enter_context(Store.open(root))
        if batched:
            # Has seen what is about to be marked.
            batch = stack.enter_context(before.batch())
            second = _taken(batch, "r", directory(more=SAME))
        with Store.open(root) as collector:

            def act() -> None:
                now = stack.enter_context(Store.open(root))
                relied.append(action(before, now))

            if not _at_transaction(collector, number, act):
                return False
        [info] = relied
        if batched:
            relied.append(before.commit(batch, second))
        for one in filter(None, relied):
            assert read(before, one)
        assert problems(before) == []
        if info:
            before.roots.add(Root("it", "named", b"", (info.path,)))
            assert [one.path for one in before.paths.all() if one.path == info.path]
    with Store.open(root) as store:
        collect(store)
        collect(store)
        assert {one.path for one in store.paths.all()} == ({info.path} if info else set())
        assert held(store)._replace(checkouts=set()) == needed(store)
    return True


@pytest.fixture
def running(store: Store, tmp_path: Path) -> Path:
    """A cached bundle that needs `p`."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name in ("config.json", "eka.json"):
        (bundle / name).write_text("{}")
    add(store, "p", TREE)
    store.roots.add(bundle_root(bundle, [path("p")], running=True))
    return bundle


def test_an_idle_bundle_goes_with_its_closure(store: Store, running: Path) -> None:
    assert preview(store).paths == 1
    assert running.exists()
    assert collect(store).paths == 1
    assert os.listdir(running.parent) == ["store"]
    assert list(store.roots.all()) == []


def test_an_idle_bundle_stays_when_something_else_keeps_its_closure(
    store: Store, running: Path
) -> None:
    store.roots.add(Root("p", "named", b"", (path("p"),)))
    assert collect(store).paths == 0
    assert (running / "config.json").exists()
    assert [root.kind for root in store.roots.all()] == ["named", "run"]


def test_a_bundle_that_something_runs_from_keeps_its_closure(store: Store, running: Path) -> None:
    fd = os.open(running, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    assert preview(store).paths == collect(store).paths == 0
    assert read(store, store.info(path("p")))
    os.close(fd)
    assert collect(store).paths == 1
    assert not running.exists()


def test_what_is_no_bundle_is_not_removed(store: Store, running: Path) -> None:
    (running / "eka.json").unlink()
    (running / "precious").write_text("data")
    assert collect(store).paths == 1
    assert (running / "precious").read_text() == "data"


def test_a_bundle_that_is_gone_is_no_root(store: Store, running: Path) -> None:
    remove_tree(running)
    result: Collected = collect(store)
    assert result.paths == 1
    assert list(store.roots.all()) == []
