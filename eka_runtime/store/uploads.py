"""Content that comes piece by piece from others: blobs, then directories, then the path info.

What came without the path that needs it is spared by collections for a day (`gc.LOOSE_SECONDS`).
Nothing is believed: digests are computed here, and a path info becomes valid only if its whole tree
is there and its NAR has the hash that it states. For servers; whoever has a whole tree uses
`Store.add_tree` and the like.
"""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.blobs import PACKED_MAX
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.directories import walk
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, Node
from eka_runtime.castore.render import nar_digest
from eka_runtime.castore.services import Read
from eka_runtime.errors import CastoreError, HashMismatch, StoreError
from eka_runtime.nix.hashes import NixHash
from eka_runtime.store.pathinfo import PathInfo, wrong_ca
from eka_runtime.store.store import Store

_CHUNK = 1 << 18
_HINT = "send the blobs first, then the directories, then the path info"


def put_blob(store: Store, read: Read) -> B3Digest:
    """Takes contents up to their end; they are durable when it returns."""
    with store.batch() as batch:
        digest = take(batch, read)
        store.commit_loose(batch)
    return digest


def put_directories(store: Store, directories: Iterable[Directory]) -> B3Digest:
    """Takes a whole tree, leaves first; returns the digest of its root, which comes last.

    Raises CastoreError, and stores nothing, for what is not one tree. Blobs are not asked for.
    """
    seen: dict[B3Digest, int] = {}
    roots: set[B3Digest] = set()
    with store.batch() as batch:
        last = None
        for directory in directories:
            _check_children(directory, seen, roots)
            last = batch.add_directory(directory).digest
            if last not in seen:
                roots.add(last)
            seen[last] = directory.size
        if last is None or roots != {last}:
            raise CastoreError("the directories are not one tree whose root comes last")
        store.commit_loose(batch)
    return last


def put_path_info(store: Store, info: PathInfo) -> PathInfo:
    """Makes a path valid whose tree was sent before; returns what is recorded.

    Raises StoreError when something below it is missing, HashMismatch when its NAR is another one
    or its content address another path's, and as `Store.commit`.
    """
    if problem := wrong_ca(info):
        raise HashMismatch(f"`{info.path}`: {problem}")
    with store.batch() as batch:
        _claim_tree(store, batch, info)
        actual = nar_digest(info.node, store.blobs, store.directories)
        if actual != (info.nar_hash, info.nar_size):
            found = NixHash("sha256", actual.sha256).sri()
            raise HashMismatch(
                f"the NAR of `{info.path}` has hash {found} and {actual.size} bytes,"
                f" not {NixHash('sha256', info.nar_hash).sri()} and {info.nar_size}"
            )
        return store.commit(batch, info)


def take(batch: Batch, read: Read) -> B3Digest:
    """Contents of any size into a batch, with bounded memory."""
    data = b""
    while len(data) < PACKED_MAX:
        piece = read(PACKED_MAX - len(data))
        if not piece:
            return batch.add_blob(data)
        data += piece
    hasher, size = blake3(), 0
    writer = batch.writer(executable=False)
    try:
        while data:
            hasher.update(data)
            size += len(data)
            writer.write(memoryview(data))
            data = read(_CHUNK)
        digest = B3Digest(hasher.digest())
        if not batch.knows(digest, size):
            writer.finish(digest)
    finally:
        writer.close()
    return digest


def _check_children(directory: Directory, seen: dict[B3Digest, int], roots: set[B3Digest]) -> None:
    for name, child in directory.entries:
        if isinstance(child, DirectoryNode):
            if seen.get(child.digest) != child.size:
                raise CastoreError(
                    f"directory {directory.digest}: {name!r} was not sent before, or has another"
                    " size"
                )
            roots.discard(child.digest)


def _claim_tree(store: Store, batch: Batch, info: PathInfo) -> None:
    """Makes the batch answer for everything below the node, so that no collection removes it."""
    _claim(batch, info, info.node)
    for _, directory in walk(info.node, store.directories):
        batch.add_directory(directory)
        for _, child in directory.entries:
            _claim(batch, info, child)


def _claim(batch: Batch, info: PathInfo, node: Node) -> None:
    if isinstance(node, FileNode) and not batch.knows(node.digest, node.size):
        raise StoreError(f"`{info.path}`: blob {node.digest} is missing", hint=_HINT)
