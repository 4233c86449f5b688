"""Which artifacts a path is an output of: kept as long as the path, whoever deletes it."""

from __future__ import annotations

from pathlib import Path

from eka_runtime.store.artifacts import Artifact, Artifacts
from eka_runtime.store.gc import collect
from eka_runtime.store.roots import Root
from eka_runtime.store.store import Store
from tests.stores import insert, link_info

LINKS = tuple(map(link_info, "abc"))
A, B, C = (link.path for link in LINKS)
ONE, TWO = (Artifact(n, "atom", "tool", f"{n}.0.0", "blake3-x") for n in "12")


def test_artifacts_are_of_valid_paths(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        insert(store, *LINKS[:2])
        found = Artifacts(store.database)
        assert found.of(A) == []
        found.add(TWO, [A, B, C])
        found.add(ONE, [A])
        found.add(ONE, [A])
        insert(store, LINKS[2])
        assert (found.of(A), found.of(B), found.of(C)) == ([ONE, TWO], [TWO], [])


def test_a_collection_takes_them_with_the_path(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        insert(store, *LINKS[:2])
        Artifacts(store.database).add(ONE, [A, B])
        store.roots.add(Root("mine", "named", b"", (B,)))
    with Store.open(tmp_path / "store") as store:
        assert collect(store).paths == 1
        assert store.paths.get(A) is None
        insert(store, LINKS[0])
        assert Artifacts(store.database).of(A) == []
        assert Artifacts(store.database).of(B) == [ONE]
        rows = store.database.connection.execute("SELECT count(*) FROM artifact").fetchone()
        assert rows == (1,)
