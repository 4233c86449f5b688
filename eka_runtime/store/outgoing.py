"""Sends paths to another place: blobs, then directories, then path infos, references first.

So the other place never knows of a path that is not whole, whatever ends the copy, and a copy that
is begun again sends only what is not there. What is read here is checked on the way: a damaged
blob arrives under another digest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from eka_runtime.castore.directories import walk
from eka_runtime.castore.node import DirectoryNode, FileNode
from eka_runtime.castore.services import require_blob
from eka_runtime.castore.trees import leaves_first
from eka_runtime.errors import StoreCorrupt
from eka_runtime.nix.path import StorePath
from eka_runtime.store.copying import JOBS, Target, levels, threads
from eka_runtime.store.incoming import Progress
from eka_runtime.store.pathinfo import PathInfo

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

_GROUP = 64
_REPAIR = "run `eka store verify --deep` to find what is damaged"

T = TypeVar("T")


def copy_to(
    store: Store,
    far: Target,
    infos: Iterable[PathInfo],
    *,
    each: Callable[[PathInfo], object] = lambda info: None,
    progress: Progress = lambda paths, size: None,
) -> None:
    """Sends what `missing_there` found; `each` is told of every path that far then has.

    Raises StoreCorrupt when what is read here is damaged, and what far raises.
    """
    done = sent = 0
    missing = {info.path: info for info in infos}
    with threads() as pool:
        for group in _groups(str(store.root), missing):
            for length in _in_window(
                pool, lambda node: _send_blob(store, far, node), _blobs(store, group)
            ):
                sent += length
                progress(done, sent)
            for _ in pool.map(lambda info: _send_tree(store, far, info), group):
                pass
            for recorded in pool.map(far.paths.put, group):
                each(recorded)
                done += 1
                progress(done, sent)


def _groups(name: str, infos: dict[StorePath, PathInfo]) -> Iterator[list[PathInfo]]:
    """Paths of one group do not refer to each other, so all of it can be sent at once."""
    for level in levels(name, infos):
        paths = iter(level)
        while group := [infos[path] for path in islice(paths, _GROUP)]:
            yield group


def _blobs(store: Store, group: list[PathInfo]) -> Iterator[FileNode]:
    """Each once."""
    seen: set[bytes] = set()
    for info in group:
        nodes = [info.node] if isinstance(info.node, FileNode) else []
        for _, directory in walk(info.node, store.directories):
            nodes += [node for _, node in directory.entries if isinstance(node, FileNode)]
        for node in nodes:
            if node.digest not in seen:
                seen.add(node.digest)
                yield node


def _send_blob(store: Store, far: Target, node: FileNode) -> int:
    """Bytes that were sent."""
    if far.blobs.has(node.digest):
        return 0
    with require_blob(store.blobs, node.digest) as reader:
        arrived = far.blobs.put(reader.read)
    if arrived != node.digest:
        raise StoreCorrupt(
            f"blob {node.digest} arrived at {far.name} as {arrived}: it is damaged here",
            hint=_REPAIR,
        )
    return node.size


def _send_tree(store: Store, far: Target, info: PathInfo) -> None:
    if not isinstance(info.node, DirectoryNode):
        return
    arrived = far.directories.put_tree(leaves_first(info.node.digest, store.directories))
    if arrived != info.node.digest:
        raise StoreCorrupt(f"`{info.path}` arrived at {far.name} as directory {arrived}")


def _in_window(
    pool: ThreadPoolExecutor, work: Callable[[FileNode], T], items: Iterable[FileNode]
) -> Iterator[T]:
    """As `pool.map`, which would begin with making a future for every item there is."""
    pending: deque[Future[T]] = deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) >= 4 * JOBS:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
