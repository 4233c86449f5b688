"""Graphs of paths whose contents overlap, for tests of what is kept and what goes."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from typing import NamedTuple

from hypothesis import strategies as st

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.directories import walk
from eka_runtime.castore.ingest import ingest_nar
from eka_runtime.castore.node import FileNode
from eka_runtime.nix import base32
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.tokens import NarReader
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from tests.unit.nix.trees import Dir, File, Link, Tree, to_nar

SMALL = tuple(b"small %d" % number * number for number in range(6))
LARGE = tuple(bytes([number]) * ((1 << 16) + number) for number in range(3))
"""Contents that lie in packs, and such that are files of their own."""


def path(name: str) -> StorePath:
    return StorePath(base32.encode(hashlib.sha1(name.encode()).digest()), name)


def add(store: Store, name: str, tree: Tree, references: Iterable[StorePath] = ()) -> PathInfo:
    """A path that is addressed by its name alone, as outputs of derivations are."""
    with store.batch() as batch:
        ingested = ingest_nar(batch, NarReader(io.BytesIO(to_nar(tree)).read))
        info = PathInfo(path(name), *ingested, tuple(sorted(references)))
        return store.commit(batch, info)


def read(store: Store, info: PathInfo) -> bytes:
    """Its NAR, which was checked on the way."""
    pieces: list[bytes] = []
    store.write_nar(info.path, pieces.append)
    return b"".join(pieces)


def contents(tree: Tree) -> set[bytes]:
    """Of all files in it."""
    if isinstance(tree, File):
        return {tree.contents}
    if isinstance(tree, Link):
        return set()
    return set().union(*(contents(child) for _, child in tree.entries))


def total(found: Iterable[bytes]) -> int:
    return sum(map(len, found))


def digests(found: Iterable[bytes]) -> set[B3Digest]:
    return {B3Digest.of(data) for data in found}


class Held(NamedTuple):
    """What a store has by its rows, and by what lies on disk."""

    paths: set[StorePath]
    blobs: set[B3Digest]
    directories: set[B3Digest]
    files: set[str]
    checkouts: set[str]


def held(store: Store) -> Held:
    blobs, layout = store.layout.blobs, store.layout
    files = {f"{shard}/{name}" for shard in os.listdir(blobs) for name in os.listdir(blobs / shard)}
    checkouts = set(os.listdir(layout.bind_view)) if layout.bind_view.exists() else set()
    return Held(
        {info.path for info in store.paths.all()},
        {row.digest for row in store.blobs.rows()},
        set(store.directories.digests()),
        files,
        checkouts,
    )


def needed(store: Store) -> Held:
    """What a store has to have for its valid paths, and nothing else."""
    infos = list(store.paths.all())
    directories = {found for info in infos for found in walk(info.node, store.directories)}
    nodes = [info.node for info in infos]
    nodes += [node for _, directory in directories for _, node in directory.entries]
    blobs = {node.digest for node in nodes if isinstance(node, FileNode)}
    rows = store.blobs.rows_of(blobs).values()
    return Held(
        {info.path for info in infos},
        blobs,
        {directory.digest for _, directory in directories},
        {row.name for row in rows if row.name},
        set(),
    )


class Item(NamedTuple):
    """A path of a graph; references are numbers of others before it, or its own."""

    tree: Tree
    references: frozenset[int]
    days: int  # since it was last wanted


# By number: Hypothesis would spell out what it samples from.
_CONTENTS = st.integers(0, len(SMALL + LARGE) - 1).map(lambda number: (SMALL + LARGE)[number])
_FILES = st.builds(File, _CONTENTS, st.booleans())
_LEAVES = _FILES | st.sampled_from([b"x", b"/nix/store"]).map(Link)
_NAMES = st.sampled_from([b"a", b"b", b"c"])


def _directories(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    found = st.dictionaries(_NAMES, children, max_size=3)
    return found.map(lambda entries: Dir(tuple(sorted(entries.items()))))


_TREES: st.SearchStrategy[Tree] = st.recursive(_LEAVES, _directories, max_leaves=6)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Item, ...]:
    items: list[Item] = []
    for number in range(draw(st.integers(1, 7))):
        references = draw(st.frozensets(st.integers(0, number), max_size=3))
        items.append(Item(draw(_TREES), references, draw(st.sampled_from([0, 20, 40, 60]))))
    return tuple(items)
