"""Compaction: nothing is lost by it, readers need not notice, and the space comes back."""

from __future__ import annotations

from eka_runtime.store.compact import compact
from eka_runtime.store.gc import collect
from eka_runtime.store.store import Store
from tests.unit.nix.trees import File
from tests.unit.store.graphs import add, read

TEXT = b"the same again and again\n" * 100


def test_who_compacted_is_still_at_work(store: Store) -> None:
    add(store, "p", File(TEXT))
    compact(store)
    info = add(store, "q", File(TEXT[::-1]))
    with Store.open(store.root) as other:
        collect(other)
    assert read(store, info)
