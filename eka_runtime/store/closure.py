"""Questions about the graph of references: closures, orders, shortest paths.

SQL does the walking where it can; nothing here needs the nodes or the blobs of a path. Results are
sorted or otherwise determined, so that equal stores give equal answers. A path that is not valid
contributes nothing: the caller checks (`Store.closure` does).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

from eka_runtime.castore.database import Database
from eka_runtime.errors import StoreCorrupt
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import read_rows
from eka_runtime.store.reach import CLOSURE, REACH

_CHOSEN = """
    WITH chosen AS (SELECT path.id FROM json_each(?) AS one JOIN path ON path.hash = one.value)
"""
_EDGES = """
    SELECT source.hash, source.name, target.hash, target.name
    FROM reference AS edge JOIN path AS source ON source.id = edge.referrer
        JOIN path AS target ON target.id = edge.reference
"""


def closure(database: Database, roots: Iterable[StorePath]) -> list[StorePath]:
    """The roots and all they refer to, directly or not, sorted."""
    return [StorePath(*row) for row in _over(database, CLOSURE, roots)]


def closure_size(database: Database, roots: Iterable[StorePath]) -> int:
    """Sum of the NAR sizes of the closure, as Nix counts it."""
    statement = REACH + "SELECT coalesce(sum(nar_size), 0) FROM reach JOIN path USING (id)"
    ((size,),) = _over(database, statement, roots)
    return int(size)


def topological(database: Database, paths: Iterable[StorePath]) -> list[StorePath]:
    """The given paths, each once, after those among them that it refers to directly."""
    chosen = sorted(set(paths))
    statement = (
        _CHOSEN
        + _EDGES
        + "WHERE edge.referrer IN chosen AND edge.reference IN chosen AND source.id <> target.id"
        + " ORDER BY source.hash, target.hash"
    )
    sorter = TopologicalSorter(dict.fromkeys(chosen, ()))
    for row in _over(database, statement, chosen):
        sorter.add(StorePath(*row[:2]), StorePath(*row[2:]))
    try:
        return list(sorter.static_order())
    except CycleError as error:
        # Inserting cannot make one: a reference must be valid before its referrer is.
        cycle = " -> ".join(path.base for path in error.args[1])
        raise StoreCorrupt(f"references form a cycle: {cycle}") from error


def why(database: Database, start: StorePath, goal: StorePath) -> list[StorePath]:
    """A shortest chain of references from `start` to `goal`, both included; [] without one."""
    statement = (
        REACH
        + _EDGES
        + "WHERE edge.referrer IN reach AND source.id <> target.id"
        + " ORDER BY source.hash, target.hash"
    )
    references: dict[StorePath, list[StorePath]] = {}
    for row in _over(database, statement, [start]):
        references.setdefault(StorePath(*row[:2]), []).append(StorePath(*row[2:]))
    came_from: dict[StorePath, StorePath | None] = {start: None}
    frontier = [start]
    while frontier and goal not in came_from:
        following: list[StorePath] = []
        for path in frontier:
            for reference in references.get(path, ()):
                if reference not in came_from:
                    came_from[reference] = path
                    following.append(reference)
        frontier = following
    return _chain(came_from, goal)


def _chain(came_from: dict[StorePath, StorePath | None], goal: StorePath) -> list[StorePath]:
    chain: list[StorePath] = []
    step = goal if goal in came_from else None
    while step is not None:
        chain.append(step)
        step = came_from[step]
    return chain[::-1]


def _over(database: Database, statement: str, paths: Iterable[StorePath]) -> Iterator[Any]:
    hashes = json.dumps([path.hash for path in paths])
    return read_rows(database, statement, (hashes,))
