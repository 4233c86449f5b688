"""Whether queries stay flat while a store grows from 10 000 to a million paths.

The paths are symlinks, which need no blobs: what grows is the database. Each refers to up to ten of
those before it. Times are of one query in an open store, medians of a few hundred at random; the
peer is the smallest store.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from eka_runtime.castore.node import SymlinkNode
from eka_runtime.nix import base32
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

SIZES = (10_000, 100_000, 1_000_000)
_QUERIES = 300
_AT_ONCE = 10_000


def run() -> list[object]:
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        rows = {size: _measure(Path(name) / str(size), size) for size in SIZES}
    title = "queries in one open store, µs"
    print(f"\n{title}")
    print(f"{'':20}" + "".join(f"{size:>14}" for size in SIZES) + f"{'largest ÷ smallest':>22}")
    for query in rows[SIZES[0]]:
        times = [rows[size][query] * 1e6 for size in SIZES]
        cells = "".join(f"{t:>14.0f}" for t in times)
        print(f"{query:20}{cells}{times[-1] / times[0]:>22.2f}")
    return [{"title": title, "rows": {str(size): row for size, row in rows.items()}}]


def _measure(root: Path, size: int) -> dict[str, float]:
    with Store.open(root) as store:
        _fill(store, size)
        chosen = random.Random(3)

        def some() -> StorePath:
            return _path(chosen.randrange(size))

        return {
            "info": _median(lambda: store.info(some())),
            "references of": _median(lambda: store.info(some()).references),
            "referrers": _median(lambda: store.referrers(some())),
            "closure of 30": _median(lambda: store.closure([_path(chosen.randrange(30, 60))])),
            "touch 30": _median(lambda: store.paths.touch(map(_path, range(30)))),
        }


def _median(query: Callable[[], object]) -> float:
    times = []
    for _ in range(_QUERIES):
        start = time.perf_counter()
        query()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _fill(store: Store, size: int) -> None:
    infos = _infos(size)
    for _ in range(0, size, _AT_ONCE):
        with store.database.transaction() as conn:
            for _, info in zip(range(_AT_ONCE), infos, strict=False):
                store.paths.insert(conn, info)


def _infos(size: int) -> Iterator[PathInfo]:
    graph = random.Random(5)
    for number in range(size):
        before = {graph.randrange(number) for _ in range(10)} if number > 30 else set()
        references = tuple(sorted(map(_path, before)))
        yield PathInfo(_path(number), SymlinkNode(b"x"), os.urandom(32), 120, references)


def _path(number: int) -> StorePath:
    # Spread over the key space, as hashes are.
    spread = (number * 0x9E3779B97F4A7C15) % (1 << 64)
    return StorePath(base32.encode(spread.to_bytes(20, "little")), f"p{number}")
