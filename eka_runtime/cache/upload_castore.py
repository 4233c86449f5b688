"""Blobs and directories of a path into a cache, beside its NAR (`?castore=1`).

So a cache of plain files gives what `eka store serve` does: single blobs and directories by their
digests, and narinfos that name the castore node. What is there already is not sent; a cache has
each blob once, however many paths contain it. The narinfo comes after all of it, as always.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from eka_runtime.cache.castore_out import contents, name_of
from eka_runtime.cache.files import Files
from eka_runtime.cache.named_node import node_text
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import DirectoryNode, FileNode, Node
from eka_runtime.castore.trees import leaves_first
from eka_runtime.errors import StoreCorrupt
from eka_runtime.nix.narinfo import NarInfo
from eka_runtime.store.copying import threads

if TYPE_CHECKING:
    from eka_runtime.nix.signing import SecretKey
    from eka_runtime.store.store import Store

Reading = Callable[[], AbstractContextManager[None]]
"""While the store is read, so that nobody closes it meanwhile."""

_JOBS = 8
# Of larger blobs, the cache's own scratch file is the buffer.
_IN_MEMORY = 1 << 20


class _Part(NamedTuple):
    kind: str
    digest: B3Digest


def send_tree(store: Store, files: Files, node: Node, reading: Reading) -> None:
    """Raises StoreCorrupt when what is read here is damaged, and ServiceError."""
    with reading():
        parts = dict.fromkeys(_parts(store, node))
    with threads(_JOBS) as pool:
        for _ in pool.map(partial(_send, store, files, reading), parts):
            pass


def with_node(info: NarInfo, node: Node, keys: Iterable[SecretKey]) -> NarInfo:
    """With the castore node of the path, signed by these keys."""
    from eka_runtime.nix.signing import castore_fingerprint

    text = node_text(node)
    data = castore_fingerprint(info.path, info.nar_hash, info.nar_size, text)
    made = tuple(sorted({key.sign(data) for key in keys}))
    return info._replace(castore=text, castore_signatures=made)


def _parts(store: Store, node: Node) -> Iterator[_Part]:
    if isinstance(node, FileNode):
        yield _Part("blob", node.digest)
    if not isinstance(node, DirectoryNode):
        return
    for directory in leaves_first(node.digest, store.directories):
        for _, child in directory.entries:
            if isinstance(child, FileNode):
                yield _Part("blob", child.digest)
        yield _Part("directory", directory.digest)


def _send(store: Store, files: Files, reading: Reading, part: _Part) -> None:
    name = name_of(part.kind, part.digest)
    if files.has(name):
        return
    with reading():
        found = contents(store, part.kind, part.digest)
    if found is None:
        raise StoreCorrupt(f"{part.kind} {part.digest} is missing", hint="run `eka store verify`")
    with files.scratch() if found.size > _IN_MEMORY else io.BytesIO() as scratch:
        with reading():
            for piece in found.pieces:
                scratch.write(piece)
        files.write(name, scratch, found.size, "application/octet-stream")
