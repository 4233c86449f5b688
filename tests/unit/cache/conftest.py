"""Small signed caches of our own making, which tests then falsify."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from eka_runtime.cache.files import DirectoryFiles
from eka_runtime.cache.upload import How, missing_in, prepare_cache, upload
from eka_runtime.nix.signing import SecretKey
from eka_runtime.store.store import Store
from tests.caches import Server, serving
from tests.stores import store
from tests.unit.cache.world import KEY, A, B, C, fill

__all__ = ["store"]


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed cache of c -> b -> a, each uncompressed."""
    place = tmp_path_factory.mktemp("cache")
    with Store.open(place / "store") as origin:
        fill(origin)
        make_cache(origin, place / "cache", How("none", keys=(KEY,)))
    return place / "cache"


def make_cache(origin: Store, directory: Path, how: How) -> None:
    files = DirectoryFiles(directory)
    directory.mkdir()
    prepare_cache(files)
    upload(origin, files, missing_in(files, origin, [A, B, C]), how)


@pytest.fixture
def cache(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(pristine, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def server(cache: Path) -> Iterator[Server]:
    with serving(cache) as server:
        yield server


def other_key() -> SecretKey:
    return SecretKey("other-1", random.Random(9).randbytes(32))
