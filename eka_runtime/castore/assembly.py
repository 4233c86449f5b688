"""Puts a castore tree together from its parts, as they come in NAR order."""

from __future__ import annotations

from collections.abc import Callable

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.node import Directory, FileNode, Node

Progress = Callable[[int, int], None]

_REPORT_FILES = 256
_REPORT_SIZE = 1 << 20


class Assembly:
    """Builds the nodes of a tree from its parts in NAR order; directories go into the batch."""

    def __init__(self, batch: Batch, progress: Progress | None = None) -> None:
        self._batch = batch
        self._progress = progress
        self._open: list[tuple[bytes, list[tuple[bytes, Node]]]] = []
        self._root: Node | None = None
        self._files = 0
        self._bytes = 0

    def directory(self, name: bytes) -> None:
        self._open.append((name, []))

    def end_directory(self) -> None:
        name, entries = self._open.pop()
        self.add(name, self._batch.add_directory(Directory(tuple(entries))))

    def add(self, name: bytes, node: Node) -> None:
        if self._open:
            self._open[-1][1].append((name, node))
        else:
            self._root = node

    def add_file(self, name: bytes, node: FileNode) -> None:
        self.add(name, node)
        self._files += 1
        self._bytes += node.size
        if node.size >= _REPORT_SIZE or not self._files % _REPORT_FILES:
            self._report()

    def result(self) -> Node:
        if self._root is None or self._open:
            raise ValueError("the tree is not complete")
        self._report()
        return self._root

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._files, self._bytes)
