"""Listings of NARs (`<hash>.ls`): what is in a path, and where in its NAR the files begin.

    {"version": 1, "root": NODE}
    NODE = {"type": "regular", "size": N, "executable": true, "narOffset": N}
         | {"type": "symlink", "target": "…"} | {"type": "directory", "entries": {NAME: NODE}}

Offsets follow from names and sizes alone, so no contents are read. Keys are in the order in which
Nix writes them. Names that are not UTF-8 cannot be in JSON; Nix writes their bytes, and so do we.
"""

from __future__ import annotations

import json
from typing import Any

from eka_runtime.castore.node import DirectoryNode, FileNode, Node
from eka_runtime.castore.services import DirectoryService, require_directory
from eka_runtime.nix.nar import (
    DIRECTORY_OPEN,
    ENTRY_CLOSE,
    MAGIC,
    NODE_CLOSE,
    entry_open,
    file_header,
    padding,
    symlink,
)


def listing(node: Node, directories: DirectoryService) -> bytes:
    """The text of the file. Raises StoreCorrupt when a directory is missing."""
    root, _ = _node(node, directories, len(MAGIC))
    text = json.dumps({"version": 1, "root": root}, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogateescape")


def _node(node: Node, directories: DirectoryService, offset: int) -> tuple[dict[str, Any], int]:
    """The node that begins at this offset of the NAR, and the offset behind it."""
    if isinstance(node, FileNode):
        start = offset + len(file_header(node.executable, node.size))
        found: dict[str, Any] = {"type": "regular", "size": node.size}
        if node.executable:
            found["executable"] = True
        found["narOffset"] = start
        return found, start + node.size + len(padding(node.size)) + len(NODE_CLOSE)
    if not isinstance(node, DirectoryNode):
        target = node.target.decode("utf-8", "surrogateescape")
        return {"type": "symlink", "target": target}, offset + len(symlink(node.target))
    offset += len(DIRECTORY_OPEN)
    entries = {}
    for name, child in require_directory(directories, node.digest).entries:
        offset += len(entry_open(name))
        below, offset = _node(child, directories, offset)
        entries[name.decode("utf-8", "surrogateescape")] = below
        offset += len(ENTRY_CLOSE)
    return {"type": "directory", "entries": entries}, offset + len(NODE_CLOSE)
