"""The references of a build's inputs, as `exportReferencesGraph` tells them to the builder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from eka_runtime.build.derivations import read_derivation
from eka_runtime.errors import FormatError
from eka_runtime.nix.derivation import EXTENSION
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store


class StoreGraph(NamedTuple):
    """`inputs` is the input closure of the build: nothing else may be asked for."""

    store: Store
    inputs: frozenset[StorePath]

    def registration(self, paths: Iterable[StorePath]) -> str:
        """Path, an empty line for the deriver, the number of references, references."""
        lines: list[str] = []
        for info in self._infos(paths):
            references = sorted(map(str, info.references))
            lines += [str(info.path), "", str(len(references)), *references]
        return "".join(f"{line}\n" for line in lines)

    def describe(self, paths: Iterable[StorePath]) -> list[dict[str, object]]:
        return [self._describe(info) for info in self._infos(paths)]

    def _describe(self, info: PathInfo) -> dict[str, object]:
        return {
            "closureSize": self.store.closure_size([info.path]),
            "narHash": NixHash("sha256", info.nar_hash).nix32(),
            "narSize": info.nar_size,
            "path": str(info.path),
            "references": sorted(map(str, info.references)),
            **({"ca": info.ca} if info.ca else {}),
        }

    def _infos(self, paths: Iterable[StorePath]) -> Iterator[PathInfo]:
        wanted = list(paths)
        for path in wanted:
            if path not in self.inputs:
                raise FormatError(f"`exportReferencesGraph` asks for {path}, which is no input")
        found = set(self.store.closure(wanted))
        drvs = [path for path in found if path.name.endswith(EXTENSION)]
        # Derivations stand for what they build as well, for instance on installation media.
        outputs = [
            built
            for drv in drvs
            for output in read_derivation(self.store, drv).outputs.values()
            if (built := output.store_path)
        ]
        found.update(self.store.closure(outputs))
        return (self.store.info(path) for path in sorted(found))
