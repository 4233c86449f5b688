"""Directory trees between services: taken in whole and checked, given out in the order needed.

Services send a tree root first, and take it leaves first. A tree that was taken in is held in
memory, encodings and all: some 100 bytes for each entry. So what a stranger sends is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory
from eka_runtime.castore.services import DirectoryService, require_directory
from eka_runtime.castore.tree_order import children, downward
from eka_runtime.errors import CastoreError

MAX_TREE_SIZE = 1 << 30
"""Bytes of encoded directories in one tree; ten million entries have less."""


class Tree:
    """A DirectoryService of one whole tree in memory; made by `receive` or from parts."""

    def __init__(self, directories: dict[B3Digest, Directory]) -> None:
        self._directories = directories

    @classmethod
    def receive(
        cls, root: B3Digest, sent: Iterable[Directory], *, maximum: int = MAX_TREE_SIZE
    ) -> Tree:
        """Takes what `get_tree` yields; nothing in it is taken on trust.

        Raises StoreCorrupt when something is missing or does not belong, CastoreError when it has
        more than `maximum` bytes.
        """
        found: dict[B3Digest, Directory] = {}
        size = 0
        for directory in downward(root, sent):
            found[directory.digest] = directory
            if (size := size + len(directory.encode())) > maximum:
                raise CastoreError(f"tree {root} has more than {maximum} bytes of directories")
        return cls(found)

    def get(self, digest: B3Digest) -> Directory | None:
        return self._directories.get(digest)

    def __iter__(self) -> Iterator[Directory]:
        """In the order of receipt: root first, each named by one before it."""
        return iter(self._directories.values())


def leaves_first(root: B3Digest, directories: DirectoryService) -> Iterator[Directory]:
    """The directory and all below it, each once, after everything below it: as `put_tree` wants.

    Raises StoreCorrupt when one is missing.
    """
    done: set[B3Digest] = set()
    # A stack, not recursion: trees may be deeper than Python's stack.
    top = require_directory(directories, root)
    stack = [(top, iter(children(top)))]
    while stack:
        directory, rest = stack[-1]
        below = next((child for child in rest if child.digest not in done), None)
        if below is not None:
            child = require_directory(directories, below.digest)
            stack.append((child, iter(children(child))))
            continue
        stack.pop()
        if directory.digest not in done:
            done.add(directory.digest)
            yield directory
