"""Collections against a naive model: what goes, in which order, and how much that gives back."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.castore.packs import pack_name
from eka_runtime.nix.path import StorePath
from eka_runtime.store.gc import Limits, collect, preview
from eka_runtime.store.roots import Root, kept
from eka_runtime.store.store import Store
from eka_runtime.view.bind import BindView
from tests.stores import assert_clean, insert, link_info
from tests.unit.nix.trees import File, Link, directory
from tests.unit.store.graphs import (
    LARGE,
    SMALL,
    Item,
    add,
    contents,
    digests,
    graphs,
    held,
    needed,
    path,
    read,
    total,
)

DAY = 86_400


class Add(NamedTuple):
    """The item, after what it refers to."""

    number: int


class Show(NamedTuple):
    """In a view."""

    number: int


class Keep(NamedTuple):
    number: int


class Drop(NamedTuple):
    number: int


Step = Add | Show | Keep | Drop | Limits

_NUMBERS = st.integers(0, 6)
_LIMITS = st.builds(
    Limits,
    st.sampled_from([0, 0, 30 * DAY]),
    st.none() | st.integers(0, 2 * len(LARGE[0])),
    st.none(),
)
_STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(*(st.builds(kind, _NUMBERS) for kind in (Add, Add, Show, Keep, Drop)), _LIMITS),
    max_size=16,
)


class Model:
    """A store that knows only sets: items that are there, in the order in which they came."""

    def __init__(self, items: tuple[Item, ...]) -> None:
        self.items = items
        self.present: list[int] = []
        self.roots: set[int] = set()
        self.shown: set[int] = set()

    def closure(self, numbers: Iterable[int]) -> set[int]:
        found: set[int] = set()
        pending = set(numbers)
        while pending:
            number = pending.pop()
            found.add(number)
            pending |= self.items[number].references - found
        return found

    def contents(self, numbers: Iterable[int]) -> set[bytes]:
        return set().union(*(contents(self.items[number].tree) for number in numbers))

    def order(self, limits: Limits) -> list[int]:
        """All that may go: referrers first, then by when they were wanted, then as they came."""
        recent = {n for n in self.present if self.items[n].days * DAY < limits.older_than}
        live = self.closure(self.roots | recent)
        left = [number for number in self.present if number not in live]
        ordered = []
        while left:
            named = {other for n in left for other in self.items[n].references - {n}}
            free = [number for number in left if number not in named]
            ordered.append(min(free, key=lambda n: (-self.items[n].days, self.present.index(n))))
            left.remove(ordered[-1])
        return ordered

    def freed(self, gone: list[int]) -> set[bytes]:
        left = set(self.present).difference(gone)
        return self.contents(self.present) - self.contents(left)

    def chosen(self, limits: Limits) -> list[int]:
        ordered = self.order(limits)
        if limits.most is None:
            return ordered
        beginnings = (ordered[:count] for count in range(len(ordered) + 1))
        enough = (some for some in beginnings if total(self.freed(some)) >= limits.most)
        return next(enough, ordered)

    def remove(self, gone: list[int]) -> None:
        self.present = [number for number in self.present if number not in gone]
        self.shown.difference_update(gone)


class Pair:
    """A store and its model, which are to stay alike whatever is done to both."""

    def __init__(self, store: Store, items: tuple[Item, ...]) -> None:
        self.store = store
        self.model = Model(items)

    def do(self, step: Step) -> None:
        if isinstance(step, Limits):
            self.collect(step)
        elif step.number < len(self.model.items):
            number = step.number
            if isinstance(step, Add):
                self.add(number)
            elif isinstance(step, Show) and number in self.model.present:
                BindView(self.store).plan([self.store.info(path(str(number)))])
                if not isinstance(self.model.items[number].tree, Link):
                    self.model.shown.add(number)
            elif isinstance(step, Keep) and number in self.model.present:
                self.store.roots.add(Root(str(number), "named", b"", (path(str(number)),)))
                self.model.roots.add(number)
            elif isinstance(step, Drop):
                assert self.store.roots.remove(str(number)) == (number in self.model.roots)
                self.model.roots.discard(number)

    def add(self, number: int) -> None:
        for one in sorted(self.model.closure([number])):
            item = self.model.items[one]
            if one not in self.model.present:
                references = [path(str(other)) for other in item.references]
                info = add(self.store, str(one), item.tree, references)
                wanted(self.store, info.path, item.days)
                self.model.present.append(one)

    def collect(self, limits: Limits) -> None:
        before = held(self.store)
        chosen = self.model.chosen(limits)
        expected, freed = [path(str(number)) for number in chosen], self.model.freed(chosen)
        foreseen: list[StorePath] = []
        foretold = preview(self.store, limits, foreseen.append)
        assert held(self.store) == before
        self.model.remove(chosen)
        gone: list[StorePath] = []
        done = collect(self.store, limits, gone.append)
        assert gone == foreseen == expected
        assert done[:4] == foretold[:4] == (len(gone), len(freed), total(freed), 0)
        self.compare()

    def compare(self) -> None:
        found = held(self.store)
        assert found.paths == {path(str(number)) for number in self.model.present}
        assert found.blobs == digests(self.model.contents(self.model.present))
        assert found.checkouts == {path(str(number)).base for number in self.model.shown}
        assert found._replace(checkouts=set()) == needed(self.store)
        assert lonely_twins(self.store) == []


def wanted(store: Store, path: StorePath, days: int) -> None:
    """Makes the path look as if nobody wanted it for so many days."""
    used = int(time.time()) - days * DAY
    with store.database.transaction() as conn:
        conn.execute("update path set used = ? where hash = ?", (used, path.hash))


def lonely_twins(store: Store) -> list[Path]:
    """Those that no checkout uses."""
    twins = [place for place in store.layout.twins.rglob("*") if place.is_file()]
    return [place for place in twins if place.stat().st_nlink == 1]


@settings(max_examples=60)
@given(graphs(), _STEPS)
def test_exactly_what_no_root_reaches_goes(items: tuple[Item, ...], steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as place:
        with Store.open(Path(place, "store")) as store:
            pair = Pair(store, items)
            for step in (*steps, Limits()):
                pair.do(step)
        assert_clean(Path(place, "store"))


@pytest.fixture
def shared(store: Store) -> Store:
    """Two paths with one small and one large blob in common, and one of each for themselves."""
    for number in (0, 1):
        own = directory(s=File(SMALL[number]), l=File(LARGE[number], executable=True))
        both = directory(s=File(SMALL[5]), l=File(LARGE[2]))
        add(store, f"p{number}", directory(own=own, both=both, exe=File(SMALL[4], bool(number))))
    return store


def test_shared_blobs_count_when_their_last_user_goes(shared: Store) -> None:
    shared.roots.add(Root("p1", "named", b"", (path("p1"),)))
    first = collect(shared)
    assert (first.paths, first.blobs, first.freed) == (1, 2, len(SMALL[0] + LARGE[0]))
    assert collect(shared)[:4] == (0, 0, 0, 0)
    shared.roots.remove("p1")
    second = collect(shared)
    rest = SMALL[1] + SMALL[4] + SMALL[5] + LARGE[1] + LARGE[2]
    assert (second.paths, second.blobs, second.freed) == (1, 5, len(rest))
    assert held(shared) == needed(shared)


def _blocks(directory: Path) -> int:
    """Disk space of all files below, each once."""
    files = {os.lstat(place) for place in directory.rglob("*") if place.is_file()}
    return sum({(one.st_dev, one.st_ino): one.st_blocks * 512 for one in files}.values())


def test_disk_space_comes_back(store: Store) -> None:
    noise = [os.urandom(50_000) for _ in range(40)]
    for number, data in enumerate(noise):
        add(store, f"p{number}", directory(own=File(data), file=File(os.urandom(100_000))))
    for number in range(0, 40, 2):
        store.roots.add(Root(f"r{number}", "named", b"", (path(f"p{number}"),)))
    # As if they had come in other processes: a pack that is appended to is left alone.
    store.blobs.appender.reset()
    os.sync()
    before = _blocks(store.layout.blobs) + _blocks(store.layout.packs)
    [pack] = os.listdir(store.layout.packs)
    done = collect(store)
    assert done.freed == 20 * 150_000
    after = _blocks(store.layout.blobs) + _blocks(store.layout.packs)
    assert done.disk >= 20 * (100_000 + 50_000 - 2 * 4096)
    assert before - after >= done.disk
    # Holes, not moves: what stays is where it was.
    assert os.listdir(store.layout.packs) == [pack]
    for number in range(0, 40, 2):
        assert noise[number] in read(store, store.info(path(f"p{number}")))


def test_a_pack_of_which_nothing_is_used_is_unlinked(store: Store) -> None:
    add(store, "p", directory(a=File(SMALL[1]), b=File(SMALL[2])))
    [row, *_] = store.blobs.rows()
    pack = store.layout.packs / pack_name(row.pack)
    store.blobs.appender.reset()
    assert pack.exists()
    collect(store)
    assert not pack.exists()
    add(store, "p", directory(a=File(SMALL[1])))


def test_checkouts_and_twins_go_with_their_paths(shared: Store) -> None:
    infos = list(shared.paths.all())
    BindView(shared).plan(infos)
    shared.roots.add(Root("p1", "named", b"", (path("p1"),)))
    collect(shared)
    assert os.listdir(shared.layout.bind_view) == [path("p1").base]
    assert lonely_twins(shared) == []
    checkout = shared.layout.bind_view / path("p1").base
    assert (checkout / "both" / "s").read_bytes() == SMALL[5]
    assert (checkout / "exe").stat().st_mode & 0o777 == 0o555
    shared.roots.remove("p1")
    collect(shared)
    assert os.listdir(shared.layout.bind_view) == []
    assert [place for place in shared.layout.twins.rglob("*") if place.is_file()] == []


def test_references_keep_and_cycles_of_one_do_not(store: Store) -> None:
    a = link_info("a", to_itself=True)
    b = link_info("b", [a.path], to_itself=True)
    c = link_info("c", [b.path])
    insert(store, a, b, c)
    store.roots.add(Root("b", "named", b"", (b.path,)))
    gone: list[StorePath] = []
    collect(store, report=gone.append)
    assert gone == [c.path]
    store.roots.remove("b")
    collect(store, report=gone.append)
    assert gone == [c.path, b.path, a.path]


def test_a_root_of_a_path_that_is_not_there(store: Store) -> None:
    info = link_info("a")
    insert(store, info)
    store.roots.add(Root("x", "named", b"", (path("absent"), info.path)))
    assert collect(store).paths == 0


def test_older_than_keeps_what_recent_paths_need(store: Store) -> None:
    old, new, lonely = link_info("old"), link_info("new", [link_info("old").path]), link_info("x")
    insert(store, old, new, lonely)
    for info, days in ((old, 90), (new, 10), (lonely, 90)):
        wanted(store, info.path, days)
    gone: list[StorePath] = []
    assert collect(store, Limits(older_than=100 * DAY)).paths == 0
    assert collect(store, Limits(older_than=30 * DAY), gone.append).paths == 1
    assert gone == [lonely.path]
    wanted(store, new.path, 40)
    collect(store, Limits(older_than=30 * DAY), gone.append)
    assert gone == [lonely.path, new.path, old.path]


def test_wanting_a_path_makes_it_young(store: Store) -> None:
    info = link_info("old")
    insert(store, info)
    wanted(store, info.path, 90)
    store.paths.touch([info.path])
    assert collect(store, Limits(older_than=30 * DAY)).paths == 0
    assert collect(store).paths == 1


def test_max_stops_as_soon_as_it_is_enough(store: Store) -> None:
    for number, data in enumerate(LARGE):
        add(store, f"p{number}", directory(own=File(data), shared=File(SMALL[3])))
        wanted(store, path(f"p{number}"), 10 * (3 - number))
    gone: list[StorePath] = []
    assert collect(store, Limits(most=0), gone.append).paths == 0
    done = collect(store, Limits(most=1), gone.append)
    assert (gone, done.freed) == ([path("p0")], len(LARGE[0]))
    # One byte more than the rest has: everything goes.
    size = len(LARGE[1] + LARGE[2] + SMALL[3])
    assert preview(store, Limits(most=size)).paths == 2
    assert preview(store, Limits(most=len(LARGE[1]))).paths == 1
    done = collect(store, Limits(most=size + 1), gone.append)
    assert (done.paths, done.freed) == (2, size)


def test_collecting_nothing(store: Store, tmp_path: Path) -> None:
    for work in (preview, collect):
        assert work(store) == (0, 0, 0, 0, 0)
    assert [kept(root) for root in store.roots.all()] == []
