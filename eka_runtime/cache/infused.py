"""NARs by their castore node, where a narinfo names it (snix's castore-infused URLs).

    URL: nar/snix-castore/<base64url of an Entry without a name>?narsize=N

With blob and directory services at hand, such a NAR need not be sent: it is put together here,
from what the store has and what only the services have. Nothing of it is believed: the NAR that
comes out is held against the hash of the narinfo like any other.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from eka_runtime.cache.named_node import PATTERN, parse_node
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.nar_source import NarSource
from eka_runtime.castore.node import DirectoryNode, Node
from eka_runtime.castore.services import BlobService, DirectoryService
from eka_runtime.castore.trees import Tree
from eka_runtime.errors import StoreCorrupt
from eka_runtime.nix.tokens import Read

if TYPE_CHECKING:
    from eka_runtime.store.copying import Source
    from eka_runtime.store.store import Store

_URL = re.compile(rf"nar/snix-castore/({PATTERN})(\?.*)?")


def infused_node(url: str) -> Node | None:
    """None for any other URL, and for one that makes no sense."""
    match = _URL.fullmatch(url)
    return parse_node(match[1]) if match else None


class InfusedNar:
    """Like a `Nar`. Raises StoreCorrupt and ServiceError where the services cannot give it."""

    def __init__(self, store: Store, far: Source, node: Node) -> None:
        blobs = _Nearest(store.blobs, far.blobs)
        self.read: Read = NarSource(node, blobs, _directories(store, far, node)).read

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class _Nearest(NamedTuple):
    """Blobs of the store, and of far what it has not."""

    near: BlobService
    far: BlobService

    def has(self, digest: B3Digest) -> bool:
        return self.near.has(digest) or self.far.has(digest)

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        return self.near.open_read(digest) or self.far.open_read(digest)


def _directories(store: Store, far: Source, node: Node) -> DirectoryService:
    if not isinstance(node, DirectoryNode) or store.directories.get(node.digest) is not None:
        return store.directories
    sent = far.directories.get_tree(node.digest)
    if sent is None:
        raise StoreCorrupt(f"{far.name} has no directory {node.digest}")
    return Tree.receive(node.digest, sent)
