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
        # The directories around the one at hand: its name, and what its parent has so far.
        self._open: list[tuple[bytes, list[tuple[bytes, Node]]]] = []
        self._entries: list[tuple[bytes, Node]] = []
        self._files = 0
        self._bytes = 0

    def directory(self, name: bytes) -> None:
        self._open.append((name, self._entries))
        self._entries = []

    def end_directory(self) -> None:
        node = self._batch.add_directory(Directory(tuple(self._entries)))
        name, self._entries = self._open.pop()
        self._entries.append((name, node))

    def add(self, name: bytes, node: Node) -> None:
        self._entries.append((name, node))

    def add_file(self, name: bytes, node: FileNode) -> None:
        self._entries.append((name, node))
        self._files += 1
        self._bytes += node.size
        if not self._files % _REPORT_FILES or node.size >= _REPORT_SIZE:
            self._report()

    def result(self) -> Node:
        if self._open or len(self._entries) != 1:
            raise ValueError("the tree is not complete")
        self._report()
        return self._entries[0][1]

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._files, self._bytes)
