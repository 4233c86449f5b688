"""What `du` counts: everything once on disk, everything in full as NARs."""

from __future__ import annotations

import os
from pathlib import Path

from eka_runtime.store.store import Store
from eka_runtime.store.usage import measure


def test_an_empty_store(store: Store) -> None:
    usage = measure(store)
    assert usage[:4] == (0, 0, 0, 0)
    assert usage.disk_bytes > 0
    assert usage.saved_fraction == 0


def test_shared_contents_are_a_saving(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(4 << 20))
    infos = [store.add_tree(tmp_path / "file", name=f"name-{number}") for number in range(8)]
    usage = measure(store)
    assert usage.paths == 8
    assert usage.nar_bytes == sum(info.nar_size for info in infos)
    assert (usage.blobs, usage.blob_bytes) == (1, 4 << 20)
    assert 4 << 20 <= usage.disk_bytes < 6 << 20
    assert 0.8 < usage.saved_fraction < 0.9
    assert usage.record()["savedBytes"] == usage.nar_bytes - usage.disk_bytes


def test_hard_links_take_no_space(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(4 << 20))
    store.add_flat(tmp_path / "file")
    before = measure(store).disk_bytes
    (row,) = store.blobs.rows()
    store.layout.bind_view.mkdir(parents=True)
    os.link(store.layout.blobs / row.name, store.layout.bind_view / "checkout")
    assert measure(store).disk_bytes - before < 1 << 20
