"""The two orders in which a tree travels, checked directory by directory as it passes.

Down: the root first, then only what was named before; so snix answers. Up: leaves first, each
naming only what came before, the root last; so snix takes it in. Both keep a digest and a size for
each directory, not the directories. Sizes are part of the check: a parent states its children's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, DirectoryNode
from eka_runtime.castore.services import DirectoryService, require_directory
from eka_runtime.errors import CastoreError, StoreCorrupt


def downward(root: B3Digest, directories: Iterable[Directory]) -> Iterator[Directory]:
    """Passes on what `get_tree` may yield for `root`; StoreCorrupt for anything else.

    Also at the end, when something that was named has not come.
    """
    sizes: dict[B3Digest, int] = {}
    awaited = {root}
    for directory in directories:
        if directory.digest not in awaited:
            raise StoreCorrupt(f"directory {directory.digest} is out of place in the tree {root}")
        awaited.remove(directory.digest)
        stated = sizes.setdefault(directory.digest, directory.size)
        _check_size(directory.digest, directory.size, stated)
        for child in children(directory):
            if child.digest not in sizes:
                awaited.add(child.digest)
            _check_size(child.digest, sizes.setdefault(child.digest, child.size), child.size)
        yield directory
    if awaited:
        raise StoreCorrupt(f"the tree {root} lacks {len(awaited)} directories: {min(awaited)}")


def _check_size(digest: B3Digest, actual: int, stated: int) -> None:
    if actual != stated:
        raise StoreCorrupt(f"directory {digest} has size {actual}, not {stated}")


def upward(directories: Iterable[Directory]) -> Iterator[Directory]:
    """Passes on what `put_tree` takes; CastoreError for anything else.

    At the end, when there was nothing, or when a directory but the last is in no other. One that
    comes again is not passed on.
    """
    sizes: dict[B3Digest, int] = {}
    unnamed: set[B3Digest] = set()
    last: B3Digest | None = None
    for directory in directories:
        for child in children(directory):
            if sizes.get(child.digest) != child.size:
                raise CastoreError(_no_such_child(directory, child, sizes.get(child.digest)))
            unnamed.discard(child.digest)
        last = directory.digest
        if last in sizes:
            continue
        sizes[last] = directory.size
        unnamed.add(last)
        yield directory
    if last is None:
        raise CastoreError("a tree has one directory or more, not none")
    if unnamed != {last}:
        raise CastoreError(f"not one tree, whose root comes last: {len(unnamed)} are in no other")


def _no_such_child(directory: Directory, child: DirectoryNode, size: int | None) -> str:
    what = "did not come before it" if size is None else f"has size {size}, not {child.size}"
    return f"directory {directory.digest} names {child.digest}, which {what}"


def breadth_first(root: B3Digest, directories: DirectoryService) -> Iterator[Directory] | None:
    """`get_tree` for a service that has only `get`. None when the root is not here."""
    top = directories.get(root)
    return downward(root, _below(top, directories)) if top else None


def _below(top: Directory, directories: DirectoryService) -> Iterator[Directory]:
    seen = {top.digest}
    pending = deque([top.digest])
    while pending:
        digest = pending.popleft()
        directory = top if digest == top.digest else require_directory(directories, digest)
        yield directory
        for child in children(directory):
            if child.digest not in seen:
                seen.add(child.digest)
                pending.append(child.digest)


def children(directory: Directory) -> Iterator[DirectoryNode]:
    return (node for _, node in directory.entries if isinstance(node, DirectoryNode))
