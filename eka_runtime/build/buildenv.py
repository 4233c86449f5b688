"""`builtin:buildenv`: one tree of links to the files of several packages, as profiles are made.

`derivations` lists packages as words: active (`true` or not), priority, number of outputs, outputs.
Directories that several packages have are merged; of files with one name the package with the lower
priority wins, and equal ones are an error. What packages propagate
(`nix-support/propagated-user-env-packages`) comes in last. As in Nix 2.8.

The packages are read from the castore, since links between them lead to /nix/store, which is not
there for us.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from eka_runtime.build.task import Task
from eka_runtime.castore.node import DirectoryNode, FileNode, Node, SymlinkNode
from eka_runtime.castore.services import require_directory
from eka_runtime.errors import BuilderFailed, BuildRefused
from eka_runtime.nix.path import STORE_DIR, StorePath
from eka_runtime.store.store import Store

_PROPAGATED = "nix-support/propagated-user-env-packages"
_LEFT_OUT = {"nix-support", "propagated-build-inputs", "perllocal.pod", "log"}
_LEFT_OUT |= {"manifest.nix", "manifest.json"}
_LATER = 1000  # the priority of the first propagated package
_LINKS_MAX = 40


class Package(NamedTuple):
    path: str
    priority: int


def build_environment(store: Store, task: Task, directory: Path) -> None:
    """Raises BuildRefused for what makes no sense, BuilderFailed for packages that collide."""
    output = task.outputs.get("out")
    if output is None:
        raise BuildRefused(f"`{task.path}` has no output `out`, where buildenv writes")
    try:
        packages = sorted(set(_packages(task.drv.env.get("derivations", "").split())), key=_order)
    except (ValueError, StopIteration, RuntimeError):
        raise BuildRefused(f"`{task.path}` has bad `derivations`") from None
    inputs = {info.path: info.node for info in task.inputs}
    forest = Forest(store, inputs, directory / output.base)
    forest.add_all(packages)
    if manifest := task.drv.env.get("manifest"):
        (forest.place / "manifest.nix").symlink_to(manifest)


def _packages(words: list[str]) -> Iterator[Package]:
    left = iter(words)
    for active in left:
        priority, count = int(next(left)), int(next(left))
        outputs = [next(left) for _ in range(count)]
        if active != "false":
            yield from (Package(path, priority) for path in outputs)


def _order(package: Package) -> tuple[int, str]:
    return package.priority, package.path


class Forest:
    """The tree in the making at `place`; `inputs` is all that can be linked to."""

    def __init__(self, store: Store, inputs: Mapping[StorePath, Node], place: Path) -> None:
        self.place = place
        self._store, self._inputs = store, inputs
        self._priorities: dict[str, int] = {}
        self._done: set[str] = set()
        self._propagated: set[str] = set()

    def add_all(self, packages: list[Package]) -> None:
        self.place.mkdir()
        for package in packages:
            self._add(package)
        priority = _LATER
        while self._propagated:
            later, self._propagated = sorted(self._propagated), set()
            for path in later:
                self._add(Package(path, priority))
                priority += 1

    def _add(self, package: Package) -> None:
        if package.path in self._done:
            return
        self._done.add(package.path)
        self._link(package.path, os.fspath(self.place), package.priority)
        found = self._real(f"{package.path}/{_PROPAGATED}")
        if found is not None and isinstance(found[1], FileNode):
            parts: list[bytes] = []
            self._store.write_file(found[0], lambda data: parts.append(bytes(data)))
            self._propagated |= set(b"".join(parts).decode().split()) - self._done

    def _link(self, source: str, target: str, priority: int) -> None:
        """Links to what is in the directory `source` of a package from the directory `target`."""
        found = self._real(source)
        if found is None or not isinstance(found[1], DirectoryNode):
            return  # Nix warns
        for raw, _ in require_directory(self._store.directories, found[1].digest).entries:
            name = os.fsdecode(raw)
            self._link_one(f"{source}/{name}", f"{target}/{name}", priority)

    def _link_one(self, source: str, target: str, priority: int) -> None:
        name = posixpath.basename(source)
        found = self._real(source)
        if name.startswith(".") or name in _LEFT_OUT or source.endswith("/info/dir"):
            return
        if found is None:
            return  # a link that leads nowhere
        present = os.lstat(target).st_mode if os.path.lexists(target) else 0
        if isinstance(found[1], DirectoryNode):
            if self._merge(source, target, priority, present):
                return
        elif stat.S_ISLNK(present):
            if self._stays(source, target, priority):
                return
            os.unlink(target)
        elif present:
            raise BuilderFailed(f"collision between `{source}` and the directory `{target}`")
        os.symlink(source, target)
        self._priorities[target] = priority

    def _merge(self, source: str, target: str, priority: int, present: int) -> bool:
        """False where there is nothing yet to merge with."""
        if stat.S_ISDIR(present):
            self._link(source, target, priority)
        elif stat.S_ISLNK(present):
            other = os.readlink(target)
            found = self._real(other)
            if found is None or not isinstance(found[1], DirectoryNode):
                raise BuilderFailed(f"collision between `{source}` and the file `{other}`")
            os.unlink(target)
            os.mkdir(target)
            self._link(found[0], target, self._priorities[target])
            self._link(source, target, priority)
        return bool(present)

    def _stays(self, source: str, target: str, priority: int) -> bool:
        previous = self._priorities[target]
        if previous == priority:
            raise BuilderFailed(
                f"files `{source}` and `{os.readlink(target)}` have the same priority {priority}",
                hint="give one of the packages another priority",
            )
        return previous < priority

    def _real(self, path: str) -> tuple[str, Node] | None:
        """Where a path in the store leads, and what is there; None if it leads nowhere."""
        for _ in range(_LINKS_MAX):
            found = self._step(path)
            if not isinstance(found, str):
                return found
            path = found
        return None

    def _step(self, path: str) -> str | tuple[str, Node] | None:
        """As `_real`, or the path beyond the first link on the way."""
        if not path.startswith(STORE_DIR + "/"):
            return None
        first, *rest = path.removeprefix(STORE_DIR + "/").split("/")
        node = self._inputs.get(StorePath.from_base(first))
        place = f"{STORE_DIR}/{first}"
        while node is not None:
            if isinstance(node, SymlinkNode):
                target = posixpath.join(posixpath.dirname(place), os.fsdecode(node.target))
                return posixpath.normpath(posixpath.join(target, *rest))
            if not rest:
                return place, node
            if not isinstance(node, DirectoryNode):
                return None
            name, *rest = rest
            node = require_directory(self._store.directories, node.digest).get(os.fsencode(name))
            place = f"{place}/{name}"
        return None
