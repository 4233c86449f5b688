"""Which store paths go into which layer of an image, so that images share layers.

A registry and a container engine keep a layer once, if it is the same to the last bit. So the more
layers, the more is shared; but engines stack about a hundred. Paths worth most get a layer of their
own: large ones first, and of equal size those that more paths of the closure need, because what
many need here is what other images will need. The others fall into a few buckets by their hash:
where two closures differ in a path, one bucket differs and not all of them. Closures that are known
to belong together can be planned together: then all they have in common is shared, however large.

Constraint: a plan follows from closures alone (never from what else this store has), so equal
closures give equal images everywhere. Layers are in an order that does not depend on the closure,
dependencies first: engines also compare what lies below a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from eka_runtime.errors import UsageError
from eka_runtime.nix import base32
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo

MAX_LAYERS = 100
"""overlayfs as docker uses it stacks 127; the rest is left to those who build on the image."""

# Measured on made-up closures of 50 to 800 paths: what helps is many single layers, few buckets,
# and a weak influence of popularity (its fourth root).
_BUCKET_SHARE = 20


Closure = Mapping[StorePath, PathInfo]


class Layer(NamedTuple):
    """`size` is the sum of NAR sizes, about what the layer has uncompressed."""

    paths: tuple[StorePath, ...]
    size: int


class Sharing(NamedTuple):
    """Bytes that two closures have in common, and how many of them lie in layers both have."""

    common: int
    shared: int

    @property
    def ratio(self) -> float:
        return self.shared / self.common if self.common else 1.0


def plan_layers(
    infos: Closure, maximum: int = MAX_LAYERS, beside: Sequence[Closure] = ()
) -> list[Layer]:
    """At most `maximum` layers for a closure. Raises UsageError for a maximum that is too small.

    `beside` are closures of images that are to share layers with this one; each of them planned
    beside the others, in whatever order, gets the same layers for what they have in common.
    """
    family = [infos, *beside]
    everything = {path: info for one in family for path, info in one.items()}
    needs = _needs(everything)
    # How much a path needs is its own property, so two images agree on the order of their common
    # paths, and what only one has comes late.
    rank = {path: (needs[path].bit_count(), path) for path in everything}
    weight = _weights(everything, needs)
    groups = []
    for paths, share in _classes(infos, family, maximum):
        groups += _groups(paths, weight, share)
    layers = [tuple(sorted(group, key=rank.__getitem__)) for group in groups]
    layers.sort(key=lambda group: (len(group) > 1, max(rank[path] for path in group)))
    return [Layer(group, sum(infos[path].nar_size for path in group)) for group in layers]


def sharing(
    one: Sequence[Layer], other: Sequence[Layer], sizes: Mapping[StorePath, int]
) -> Sharing:
    """`sizes` are NAR sizes of all paths of one of them."""
    common = {path for layer in one for path in layer.paths} & {
        path for layer in other for path in layer.paths
    }
    same = {layer.paths for layer in one} & {layer.paths for layer in other}
    shared = (path for group in same for path in group)
    return Sharing(sum(sizes[path] for path in common), sum(sizes[path] for path in shared))


def _classes(
    infos: Closure, family: Sequence[Closure], maximum: int
) -> list[tuple[list[StorePath], int]]:
    """Paths of one class are in the same closures; with the number of layers it may have."""
    found: dict[frozenset[int], list[StorePath]] = {}
    for path in sorted({path for one in family for path in one}):
        homes = frozenset(number for number, one in enumerate(family) if path in one)
        found.setdefault(homes, []).append(path)
    # The share must be the same whichever of the family is exported.
    most = max(sum(number in homes for homes in found) for number in range(len(family)))
    if maximum < max(most, 1):
        raise UsageError(
            f"these closures cannot share layers with fewer than {max(most, 1)} layers",
            hint="allow more with `--max-layers`",
        )
    share = maximum // max(most, 1)
    return [(paths, share) for homes, paths in found.items() if 0 in homes]


def _groups(
    paths: list[StorePath], weight: Mapping[StorePath, int], maximum: int
) -> list[tuple[StorePath, ...]]:
    if len(paths) <= maximum:
        return [(path,) for path in paths]
    ranked = sorted(paths, key=lambda path: (-weight[path], path))
    buckets = max(1, maximum // _BUCKET_SHARE)
    own = maximum - buckets
    return [(path,) for path in ranked[:own]] + _buckets(ranked[own:], buckets)


def _buckets(paths: Iterable[StorePath], count: int) -> list[tuple[StorePath, ...]]:
    found: dict[int, list[StorePath]] = {}
    for path in paths:
        number = int.from_bytes(base32.decode(path.hash)[:8], "big") % count
        found.setdefault(number, []).append(path)
    return [tuple(found[number]) for number in sorted(found)]


def _needs(infos: Closure) -> dict[StorePath, int]:
    """For each path the set of all it refers to, directly or not, as bits; itself included."""
    bit = {path: 1 << number for number, path in enumerate(sorted(infos))}
    needs: dict[StorePath, int] = {}
    for path in _references_first(infos):
        found = bit[path]
        for reference in infos[path].references:
            found |= needs.get(reference, 0)
        needs[path] = found
    return needs


def _weights(infos: Closure, needs: Mapping[StorePath, int]) -> dict[StorePath, int]:
    """By size and by how many paths need each, itself included. In integers: alike everywhere."""
    ordered = sorted(infos)
    counts = [0] * len(ordered)
    for found in needs.values():
        while found:
            lowest = found & -found
            counts[lowest.bit_length() - 1] += 1
            found ^= lowest
    return {
        path: infos[path].nar_size ** 4 * count for path, count in zip(ordered, counts, strict=True)
    }


def _references_first(infos: Closure) -> list[StorePath]:
    # A stack: chains of references may be longer than Python's.
    done: dict[StorePath, None] = {}
    for start in sorted(infos):
        stack = [(start, iter(infos[start].references))]
        while stack:
            path, rest = stack[-1]
            below = next((r for r in rest if r in infos and r not in done and r != path), None)
            if below is not None:
                stack.append((below, iter(infos[below].references)))
            else:
                stack.pop()
                done.setdefault(path)
    return list(done)
