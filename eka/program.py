"""Finds programs inside store paths: `python3` in the packages' bin/, the main program of a path.

Looks in the castore, so nothing needs to be mounted or checked out, and follows symbolic links as
the kernel will inside the bundle: within the closure only.
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.errors import InterpreterNotFound, InvalidStorePath, NotExecutable, StoreCorrupt
from eka_runtime.nix.path import STORE_DIR, split
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

_MAX_LINKS = 40  # as the kernel's own limit, path_resolution(7)


class Programs(NamedTuple):
    """The programs of `packages`, in order, seen from inside a bundle that holds `closure`."""

    store: Store
    packages: tuple[PathInfo, ...]
    closure: dict[str, PathInfo]  # by "<hash>-<name>"

    def search_path(self) -> list[str]:
        """The bin/ directories that exist, for PATH."""
        places = [f"{info.path}/bin" for info in self.packages]
        return [place for place in places if isinstance(self.node_at(place), DirectoryNode)]

    def find(self, name: str) -> str | None:
        """Absolute path of an executable `bin/<name>`, None when no package has it."""
        for place in self.search_path():
            candidate = f"{place}/{name}"
            node = self.node_at(candidate)
            if isinstance(node, FileNode) and node.executable:
                return candidate
        return None

    def require(self, name: str, asked_by: str) -> str:
        """As `find`; absolute store paths are checked and kept. Raises InterpreterNotFound."""
        if name.startswith(STORE_DIR + "/"):
            return self.executable(name, asked_by)
        found = self.find(name)
        if found is None:
            places = ", ".join(f"`{place}`" for place in self.search_path()) or "no packages"
            raise InterpreterNotFound(
                f"`{name}` ({asked_by}) is not in the packages: looked in {places}",
                hint="add the package that has it, with `packages = […]` in the header or `-p`",
            )
        return found

    def executable(self, place: str, asked_by: str) -> str:
        node = self.node_at(place)
        if node is None:
            raise InterpreterNotFound(f"`{place}` ({asked_by}) does not exist in the closure")
        if not isinstance(node, FileNode) or not node.executable:
            raise NotExecutable(f"`{place}` ({asked_by}) is not an executable file")
        return place

    def main_program(self, info: PathInfo) -> str:
        """What `eka run PATH` starts: the path itself, its bin/<name>, or its only program."""
        if not isinstance(info.node, DirectoryNode):
            return self.executable(str(info.path), "the path itself")
        names = self.executables(info)
        wanted = re.sub(r"-[0-9].*$", "", info.path.name)
        if wanted in names:
            return f"{info.path}/bin/{wanted}"
        if len(names) == 1:
            return f"{info.path}/bin/{names[0]}"
        some = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise InterpreterNotFound(
            f"`{info.path}` has no program `bin/{wanted}`",
            hint=f"name one of its programs ({some}), as in `eka run {info.path}/bin/{names[0]}`"
            if names
            else "give a path that has a bin/ directory, or a program with `-p`",
        )

    def executables(self, info: PathInfo) -> list[str]:
        node = self.node_at(f"{info.path}/bin")
        if not isinstance(node, DirectoryNode):
            return []
        entries = self._directory(node).entries
        names = [name.decode("utf-8", "surrogateescape") for name, _ in entries]
        return [name for name in names if self.find_in(info, name)]

    def find_in(self, info: PathInfo, name: str) -> bool:
        node = self.node_at(f"{info.path}/bin/{name}")
        return isinstance(node, FileNode) and node.executable

    def node_at(self, place: str) -> Node | None:
        """The node at an absolute path below /nix/store, links followed; None if there is none."""
        for _ in range(_MAX_LINKS):
            found, rest = self._walk(place)
            if rest is None or found is None:
                return found
            place = rest
        return None

    def _walk(self, place: str) -> tuple[Node | None, str | None]:
        """(node, None) at the end of the path, or (link, where the path continues) at a link."""
        try:
            path, sub = split(place)
        except InvalidStorePath:
            return None, None
        info = self.closure.get(path.base)
        if info is None:
            return None, None
        node: Node | None = info.node
        here, parts = str(path), [part for part in sub.split("/") if part]
        for depth, part in enumerate([*parts, ""]):
            if isinstance(node, SymlinkNode):
                target = node.target.decode("utf-8", "surrogateescape")
                onward = posixpath.join(posixpath.dirname(here), target, *parts[depth:])
                return node, posixpath.normpath(onward)
            if not part:
                break
            if not isinstance(node, DirectoryNode):
                return None, None
            node = self._directory(node).get(part.encode("utf-8", "surrogateescape"))
            here = f"{here}/{part}"
        return node, None

    def _directory(self, node: DirectoryNode) -> Directory:
        directory = self.store.directories.get(node.digest)
        if directory is None:
            raise StoreCorrupt(
                f"the store has lost the directory {node.digest}", hint="run `eka store verify`"
            )
        return directory
