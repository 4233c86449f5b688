"""Graph queries against a model that walks dictionaries."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.errors import PathNotFound, StoreCorrupt
from eka_runtime.nix.path import StorePath
from eka_runtime.store import closure
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from tests.stores import assert_clean, insert, link_info

Graph = list[tuple[set[int], bool]]

# For each path, in order, which of those before it are referred to, and whether itself is.
graphs = st.lists(st.tuples(st.sets(st.integers(0, 11)), st.booleans()), min_size=1, max_size=12)

Model = dict[StorePath, set[StorePath]]


def _paths(graph: Graph) -> list[PathInfo]:
    infos: list[PathInfo] = []
    for number, (edges, to_itself) in enumerate(graph):
        references = {infos[edge % number].path for edge in edges} if number else set()
        infos.append(link_info(str(number), references, to_itself=to_itself))
    return infos


def _reachable(model: Model, roots: set[StorePath]) -> set[StorePath]:
    found = set(roots)
    while grown := {target for path in found for target in model[path]} - found:
        found |= grown
    return found


def _distance(model: Model, start: StorePath, goal: StorePath) -> int | None:
    reached, steps = {start}, 0
    while goal not in reached:
        grown = reached | {target for path in reached for target in model[path]}
        if grown == reached:
            return None
        reached, steps = grown, steps + 1
    return steps


@settings(max_examples=25, deadline=None)
@given(graphs, st.data())
def test_queries_agree_with_the_model(graph: Graph, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "store"
        with Store.open(root) as store:
            infos = _paths(graph)
            insert(store, *infos)
            model = {info.path: set(info.references) for info in infos}
            some = data.draw(st.sets(st.sampled_from(sorted(model)), min_size=1))
            _check_closures(store, model, some)
            _check_order(store, model, some)
            for path in model:
                expected = sorted(one for one, targets in model.items() if path in targets)
                assert store.referrers(path) == expected
            _check_chain(store, model, infos[-1].path, min(some))
        assert_clean(root)


def _check_closures(store: Store, model: Model, roots: set[StorePath]) -> None:
    expected = sorted(_reachable(model, roots))
    assert store.closure(roots) == expected
    sizes = [store.info(path).nar_size for path in expected]
    assert store.closure_size(roots) == sum(sizes)


def _check_order(store: Store, model: Model, some: set[StorePath]) -> None:
    ordered = closure.topological(store.database, [*some, *some])
    assert sorted(ordered) == sorted(some)
    for place, path in enumerate(ordered):
        assert not model[path] & set(ordered[place + 1 :])


def _check_chain(store: Store, model: Model, start: StorePath, goal: StorePath) -> None:
    chain = store.why(start, goal)
    distance = _distance(model, start, goal)
    if distance is None:
        assert chain == []
        return
    assert (chain[0], chain[-1], len(chain)) == (start, goal, distance + 1)
    assert all(later in model[earlier] for earlier, later in pairwise(chain))


def test_an_unknown_path_is_named(store: Store) -> None:
    known, unknown = link_info("known"), link_info("unknown").path
    insert(store, known)
    misnamed = StorePath(known.path.hash, "misnamed")
    for missing in (unknown, misnamed):
        with pytest.raises(PathNotFound, match=missing.name):
            store.closure([known.path, missing])
        with pytest.raises(PathNotFound):
            store.referrers(missing)
        with pytest.raises(PathNotFound):
            store.why(known.path, missing)
        with pytest.raises(PathNotFound):
            store.why(missing, known.path)


def test_closures_of_nothing(store: Store) -> None:
    assert store.closure([]) == []
    assert store.closure_size([]) == 0
    assert closure.topological(store.database, []) == []


def test_more_roots_than_sql_has_parameters(store: Store) -> None:
    infos = [link_info(str(number)) for number in range(2000)]
    insert(store, *infos)
    assert store.closure(info.path for info in infos) == sorted(info.path for info in infos)


def test_a_cycle_made_by_damage_is_an_error(damaged: Store) -> None:
    first = link_info("first")
    second = link_info("second", [first.path])
    insert(damaged, first, second)
    damaged.database.connection.execute(
        "INSERT INTO reference"
        " SELECT a.id, b.id FROM path a, path b WHERE a.hash = ? AND b.hash = ?",
        (first.path.hash, second.path.hash),
    )
    with pytest.raises(StoreCorrupt, match="cycle"):
        closure.topological(damaged.database, [first.path, second.path])
    assert damaged.closure([first.path]) == sorted([first.path, second.path])
