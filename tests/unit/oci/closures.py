"""Made-up closures with the shape of real ones: sizes over many magnitudes, few paths popular."""

from __future__ import annotations

import random
from collections.abc import Iterable

from eka_runtime.castore.node import SymlinkNode
from eka_runtime.nix import base32
from eka_runtime.nix.path import StorePath
from eka_runtime.oci.image_layers import Closure
from eka_runtime.store.pathinfo import PathInfo


def universe(seed: int, count: int) -> dict[StorePath, PathInfo]:
    """Each path refers to up to six before it, early ones more often."""
    chance, infos = random.Random(seed), dict[StorePath, PathInfo]()
    paths: list[StorePath] = []
    for number in range(count):
        path = StorePath(base32.encode(chance.randbytes(20)), f"p{number}")
        wanted = min(len(paths), chance.randint(1, 6))
        found = {paths[int(len(paths) * chance.random() ** 2.5)] for _ in range(wanted)}
        size = int(chance.lognormvariate(12.5, 2.3)) + 200
        node = SymlinkNode(b"anything")
        infos[path] = PathInfo(path, node, bytes(32), size, tuple(sorted(found)))
        paths.append(path)
    return infos


def closure_of(infos: Closure, roots: Iterable[StorePath]) -> dict[StorePath, PathInfo]:
    found = dict.fromkeys(roots)
    pending = list(found)
    while pending:
        for path in infos[pending.pop()].references:
            if path not in found:
                found[path] = None
                pending.append(path)
    return {path: infos[path] for path in found}


def two_of(seed: int, roots: int) -> tuple[Closure, Closure]:
    """Two closures that have most of their roots, and so most of their paths, in common."""
    infos = universe(seed, 3000)
    chance = random.Random(seed)
    common = chance.sample(sorted(infos), roots)
    one, other = (chance.sample(sorted(infos), max(1, roots // 6)) for _ in range(2))
    return closure_of(infos, common + one), closure_of(infos, common + other)
