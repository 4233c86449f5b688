"""What a daemon gets from binary caches: queries, what would be fetched, and the fetch itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from eka_runtime.cache.access import Access
from eka_runtime.cache.settings import CacheSettings
from eka_runtime.cache.supply import Supply
from eka_runtime.daemon.protocol import Op
from eka_runtime.nix.path import StorePath
from eka_runtime.store.store import Store
from tests.caches import Server, serving
from tests.unit.cache.conftest import pristine
from tests.unit.cache.world import KEY, A, B, C, falsify, narinfo
from tests.unit.castore.local import temporary
from tests.unit.daemon.client import Client, Refused, served

__all__ = ["pristine"]

ABSENT = StorePath("0" * 32, "absent")


@pytest.fixture
def far(pristine: Path) -> Iterator[Server]:
    with serving(pristine) as server:
        yield server


@contextmanager
def client(store_dir: Path, url: str) -> Iterator[Client]:
    settings = CacheSettings((url,), (str(KEY.public),))
    with (
        closing(Supply(settings, Access({}), None)) as supply,
        temporary() as directory,
        served(store_dir, directory / "socket", supply=supply) as place,
        Client(place) as connected,
    ):
        yield connected


def test_what_could_be_fetched(store_dir: Path, far: Server, pristine: Path) -> None:
    with client(store_dir, far.url) as connected:
        paths = [str(path) for path in (A, C, ABSENT)]
        there = connected.ask(Op.QuerySubstitutablePaths, {"paths": paths})
        assert there == {"paths": [str(A), str(C)]}
        infos = connected.ask(
            Op.QuerySubstitutablePathInfos, {"addresses": dict.fromkeys(paths, "")}
        )["infos"]
        assert sorted(infos) == [str(A), str(C)]
        assert infos[str(C)]["references"] == [str(A), str(B), str(C)]
        assert infos[str(A)]["narSize"] == narinfo(pristine, A).nar_size
        missing = connected.ask(Op.QueryMissing, {"targets": [str(C), str(ABSENT)]})
        assert missing["willSubstitute"] == [str(A), str(B), str(C)]
        assert missing["unknown"] == [str(ABSENT)]
        total = sum(narinfo(pristine, path).nar_size for path in (A, B, C))
        assert (missing["narSize"], missing["downloadSize"]) == (total, total)
        assert connected.ask(Op.QueryAllValidPaths) == {"paths": []}


def test_paths_come_when_they_are_wanted(store_dir: Path, far: Server) -> None:
    with client(store_dir, far.url) as connected:
        assert connected.ask(Op.EnsurePath, {"path": str(A)}) == {"one": 1}
        query = {"paths": [str(C), str(ABSENT)], "substitute": False}
        assert connected.ask(Op.QueryValidPaths, query) == {"paths": []}
        assert connected.ask(Op.QueryValidPaths, query | {"substitute": True}) == {
            "paths": [str(C)]
        }
        with pytest.raises(Refused, match="is not valid"):
            connected.ask(Op.EnsurePath, {"path": str(ABSENT)})
        assert connected.ask(Op.QueryAllValidPaths)["paths"] == [str(A), str(B), str(C)]


def test_what_is_not_trusted_does_not_come(store_dir: Path, pristine: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(pristine, tmp_path / "cache")
    falsify(tmp_path / "cache", A, sign=False, signatures=())
    with client(store_dir, f"file://{tmp_path}/cache") as connected:
        with pytest.raises(Refused, match="is not valid"):
            connected.ask(Op.EnsurePath, {"path": str(C)})
        assert any("not signed" in str(values) for _, values in connected.said)
        assert connected.ask(Op.QueryAllValidPaths) == {"paths": []}


def test_the_builder_of_one_target(store_dir: Path, far: Server) -> None:
    with client(store_dir, far.url) as connected:
        assert connected.ask(Op.BuildPaths, {"targets": [str(C)], "mode": 0}) == {"one": 1}
    with Store.open(store_dir) as store:
        assert store.info(C).signatures
