"""Looking inside paths without mounting anything.

Everything stays in the castore: a symlink on the way is an error that names it, since its target
is a name on some file system and may lead anywhere.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blake3 import blake3

from eka_runtime.castore.blobs import READ_SIZE
from eka_runtime.castore.node import DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.castore.services import require_blob, require_directory
from eka_runtime.errors import PathNotFound, StoreCorrupt
from eka_runtime.nix.path import split
from eka_runtime.nix.tokens import Write
from eka_runtime.store.pathinfo import PathInfo

if TYPE_CHECKING:
    from eka_runtime.store.store import Store


def resolve(store: Store, text: str) -> tuple[PathInfo, Node]:
    path, inside = split(text)
    info = store.info(path)
    node, place = info.node, str(path)
    for part in inside.split("/"):
        if part in ("", "."):
            continue
        node = _child(store, node, place, part)
        place = f"{place}/{part}"
    return info, node


def _child(store: Store, node: Node, place: str, name: str) -> Node:
    if isinstance(node, SymlinkNode):
        raise PathNotFound(
            f"`{place}` is a symbolic link to `{os.fsdecode(node.target)}` and is not followed",
            hint="name the target itself",
        )
    if isinstance(node, FileNode):
        raise PathNotFound(f"`{place}` is a file, not a directory")
    if name == "..":
        raise PathNotFound(f"`{place}/..` leads upwards", hint="name the directory itself")
    child = require_directory(store.directories, node.digest).get(os.fsencode(name))
    if child is None:
        raise PathNotFound(
            f"there is no `{name}` in `{place}`", hint=f"see what is there: `eka store ls {place}`"
        )
    return child


def write_file(store: Store, text: str, write: Write) -> None:
    _, node = resolve(store, text)
    if isinstance(node, DirectoryNode):
        raise PathNotFound(f"`{text}` is a directory", hint=f"list it: `eka store ls {text}`")
    if isinstance(node, SymlinkNode):
        target = os.fsdecode(node.target)
        raise PathNotFound(f"`{text}` is a symbolic link to `{target}`", hint="name its target")
    hasher = blake3()
    with require_blob(store.blobs, node.digest) as reader:
        while data := reader.read(READ_SIZE):
            hasher.update(data)
            write(data)
    if hasher.digest() != node.digest:
        raise StoreCorrupt(
            f"`{text}` has changed since it was added: its contents have another digest",
            hint="run `eka store verify --deep` to find what else is damaged",
        )
