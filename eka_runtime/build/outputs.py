"""What a build left, on its way into the store: read, scanned, checked, named, made valid at once.

Of an output the contents, execute bits and link targets count; modes, times and owners do not, so
that nothing has to be made canonical on disk. Its references are those of the input closure and of
the outputs whose hashes occur in it. Three kinds:

    input-addressed   belongs where the derivation said
    fixed             must have the stated hash; what has another one is kept under its own path
    floating          gets its path from its contents, in which its scratch path is then replaced

Nothing of a derivation becomes valid before all of it is accepted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from eka_runtime.build.addressed import content_hash, ingest_rewritten, modulo_hash
from eka_runtime.build.references import Scanner
from eka_runtime.castore.batch import Batch
from eka_runtime.castore.ingest import Ingested, ingest_tree
from eka_runtime.errors import (
    BuilderFailed,
    CastoreError,
    FormatError,
    OutputRejected,
    StoreAccessError,
)
from eka_runtime.nix.derivation import Derivation, Output
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.path import ContentAddress, StorePath, path_for_ca
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store


class Found:
    """An output as the builder left it: `path` is where it was to be written."""

    def __init__(
        self,
        name: str,
        path: StorePath,
        place: Path,
        ingested: Ingested,
        references: tuple[StorePath, ...],
        batch: Batch,
    ) -> None:
        self.name, self.path, self.place = name, path, place
        self.ingested, self.references, self.batch = ingested, references, batch


class Outputs:
    """Takes in the outputs of one build. A context manager: what is not committed is dropped.

    With `adopt`, their large files become blobs: nobody may have them open for writing.
    """

    def __init__(self, store: Store, deriver: StorePath, drv: Derivation, *, adopt: bool) -> None:
        self._store, self._deriver, self._drv = store, deriver, drv
        self._adopt = adopt
        self._stack = ExitStack()
        self._batches: dict[StorePath, Batch] = {}
        self.wrong: OutputRejected | None = None
        """What is wrong with a fixed output, which has become what its contents say."""

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(
        self, directory: Path, outputs: Mapping[str, StorePath], inputs: Iterable[StorePath]
    ) -> dict[str, PathInfo]:
        """What was built, by output name. Raises BuildError."""
        candidates = [*inputs, *outputs.values()]
        found = {
            path: self._read(name, path, directory / path.base, candidates)
            for name, path in outputs.items()
        }
        infos: dict[str, PathInfo] = {}
        finals: dict[StorePath, StorePath] = {}
        for path in self._references_first(found):
            one = found[path]
            output = self._drv.outputs[one.name]
            if output.fixed:
                info = self._fixed(one, output)
            elif output.floating:
                info = self._floating(one, output, finals)
                finals[path] = info.path
            else:
                info = self._info(one.path, one.ingested, one.references)
            infos[one.name] = info
            self._batches[info.path] = one.batch
        return infos

    def commit(self, infos: Iterable[PathInfo]) -> None:
        """Makes them valid, all at once; those that are valid already stay as they are.

        In the order in which `read` returned them: references come first.
        """
        new = [info for info in infos if self._store.paths.get(info.path) is None]
        group = [(self._batches[info.path], info) for info in new]
        self._store.commit_all(group, or_none=True)

    def _read(self, name: str, path: StorePath, place: Path, candidates: list[StorePath]) -> Found:
        if not os.path.lexists(place):
            raise BuilderFailed(
                f"builder for `{self._deriver}` failed to produce output `{name}` at `{path}`"
            )
        try:
            try:
                return self._ingest(name, path, place, candidates)
            except StoreAccessError:
                # Perhaps only its own modes are in the way; Nix makes everything readable, too.
                make_readable(place)
                return self._ingest(name, path, place, candidates)
        except CastoreError as error:
            text = str(error).replace(os.fspath(place), str(path))
            raise OutputRejected(f"output `{name}` of `{self._deriver}`: {text}") from error

    def _ingest(
        self, name: str, path: StorePath, place: Path, candidates: list[StorePath]
    ) -> Found:
        scanner = Scanner(candidates)
        batch = self._stack.enter_context(self._store.batch())
        ingested = ingest_tree(batch, place, scan=scanner.update, adopt=self._adopt)
        return Found(name, path, place, ingested, scanner.found(), batch)

    def _references_first(self, found: Mapping[StorePath, Found]) -> list[StorePath]:
        graph = {
            path: [other for other in one.references if other in found and other != path]
            for path, one in found.items()
        }
        try:
            return list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            names = " → ".join(found[path].name for path in reversed(error.args[1]))
            raise OutputRejected(
                f"outputs of `{self._deriver}` refer to each other in a circle: {names}"
            ) from None

    def _fixed(self, one: Found, output: Output) -> PathInfo:
        stated = output.stated_hash()
        if output.method != "recursive":
            self._require_plain_file(one)
        got = NixHash(stated.algo, content_hash(one.place, one.ingested, output))
        if one.references:
            raise OutputRejected(
                f"fixed output `{one.path}` must not refer to store paths, but it does to"
                f" `{one.references[0]}`"
            )
        address = ContentAddress(output.method, got)
        path = path_for_ca(self._drv.name, address)
        if got != stated:
            self.wrong = OutputRejected(
                f"hash mismatch in fixed-output derivation `{self._deriver}`:\n"
                f"  specified: {stated.sri()}\n"
                f"     got:    {got.sri()}",
                hint="if what was fetched is right, state the hash that was got",
            )
        return self._info(path, one.ingested, (), address)

    def _require_plain_file(self, one: Found) -> None:
        status = os.lstat(one.place)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & stat.S_IXUSR:
            raise OutputRejected(
                f"output path `{one.path}` should be a non-executable regular file, since its"
                " hash is one of the contents alone",
                hint='for a tree or a program: `outputHashMode = "recursive"`',
            )

    def _floating(
        self, one: Found, output: Output, finals: Mapping[StorePath, StorePath]
    ) -> PathInfo:
        if output.method != "recursive":
            self._require_plain_file(one)
        to_itself = one.path in one.references
        moved = {path: finals[path] for path in one.references if path in finals}
        others = tuple(finals.get(path, path) for path in one.references if path != one.path)
        if to_itself or moved:
            digest = modulo_hash(one.place, output, one.path if to_itself else None, moved)
        else:
            digest = content_hash(one.place, one.ingested, output)
        address = ContentAddress(output.method, NixHash(output.hash_algo, digest))
        try:
            path = path_for_ca(one.path.name, address, others, to_itself)
        except FormatError as error:
            raise OutputRejected(f"output `{one.name}` of `{self._deriver}`: {error}") from None
        if to_itself or moved:
            one.batch = self._stack.enter_context(self._store.batch())
            one.ingested = ingest_rewritten(one.batch, one.place, {**moved, one.path: path})
        return self._info(path, one.ingested, (*others, *([path] if to_itself else [])), address)

    def _info(
        self,
        path: StorePath,
        ingested: Ingested,
        references: Iterable[StorePath],
        address: ContentAddress | None = None,
    ) -> PathInfo:
        return PathInfo(
            path,
            *ingested,
            references=tuple(sorted(references)),
            deriver=self._deriver,
            ca=str(address) if address else None,
        )


def make_readable(root: Path) -> None:
    """Gives their owner back what he may do with the files and directories of a tree."""
    waiting = [os.fspath(root)]
    while waiting:
        place = waiting.pop()
        mode = os.lstat(place).st_mode
        if stat.S_ISDIR(mode):
            os.chmod(place, 0o700)
            waiting += [entry.path for entry in os.scandir(place)]
        elif stat.S_ISREG(mode) and not mode & stat.S_IRUSR:
            os.chmod(place, stat.S_IMODE(mode) | stat.S_IRUSR)
