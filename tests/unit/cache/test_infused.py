"""Castore-infused URLs: only missing blobs come, and what services lack comes as a NAR."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from eka_runtime.cache.fetch import fetch
from eka_runtime.cache.infused import infused_node
from eka_runtime.cache.server import Address, serving
from eka_runtime.cache.serving import Asked, Cache, Policy
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.services import BlobService
from eka_runtime.store.composition import services_of
from eka_runtime.store.store import Store
from tests.unit.cache.world import KEY, NOISE, A, B, C, fill, plan, substituter


class Counted:
    """Blobs that know which of them were read."""

    def __init__(self, blobs: BlobService) -> None:
        self.read: list[B3Digest] = []
        self._blobs = blobs

    def has(self, digest: B3Digest) -> bool:
        return self._blobs.has(digest)

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        self.read.append(digest)
        return self._blobs.open_read(digest)


class Noted(Cache):
    """A cache that knows what it was asked for."""

    nars = 0

    def answer(self, asked: Asked) -> object:  # type: ignore[override]
        self.nars += asked.name.startswith("nar/")
        return super().answer(asked)


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "origin") as made:
        fill(made)
        yield made


def test_only_missing_blobs_come(origin: Store, store: Store, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(NOISE)
    store.add_flat(tmp_path / "noise")
    cache = Noted(origin, Policy("none", keys=(KEY,)))
    far = services_of(origin)
    counted = Counted(far.blobs)
    with serving(cache, Address("127.0.0.1", 0), print) as url, substituter(url) as caches:
        found = plan(caches, store, C).found
        assert all(infused_node(one.info.url) for one in found)
        source = far._replace(blobs=counted)  # type: ignore[arg-type]
        fetch(store, caches, found, castore=source)
        assert cache.nars == 0
    assert {info.path for info in store.paths.all()} > {A, B, C}
    assert B3Digest.of(NOISE) not in counted.read
    assert B3Digest.of(b"b" * 5_000) in counted.read


def test_what_the_services_lack_comes_as_a_nar(origin: Store, store: Store, tmp_path: Path) -> None:
    cache = Noted(origin, Policy("none", keys=(KEY,)))
    with (
        Store.open(tmp_path / "nothing") as empty,
        serving(cache, Address("127.0.0.1", 0), print) as url,
        substituter(url) as caches,
    ):
        found = plan(caches, store, C).found
        fetch(store, caches, found, castore=services_of(empty))
        assert cache.nars == 3
    assert store.info(C)


def test_other_urls_are_none() -> None:
    for url in ("nar/x.nar", "nar/snix-castore/", "nar/snix-castore/AAAA", "nar/snix-castore/!"):
        assert infused_node(url) is None
