"""What processes do to a store, at random, until they are killed (`test_store_crash.py`).

A path counts as kept from the line `kept ROOT PATH HASH` on, which is printed when its root is
durable, until `dropping ROOT`, which is printed before the root goes. Roots have the prefix of the
one child that may drop them. Everything follows from the seed but for what others do meanwhile.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import NamedTuple

from eka_runtime.castore import hashing, intake, recorder
from eka_runtime.castore import tree as tree_module
from eka_runtime.castore.node import DirectoryNode, FileNode
from eka_runtime.castore.removal import remove_tree
from eka_runtime.castore.trees import leaves_first
from eka_runtime.nix.export import ExportItem, write_export
from eka_runtime.nix.path import StorePath
from eka_runtime.store.compact import compact
from eka_runtime.store.composition import services_of
from eka_runtime.store.copying import missing_here
from eka_runtime.store.gc import Limits, collect
from eka_runtime.store.incoming import copy_from
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.roots import Root
from eka_runtime.store.store import Store
from eka_runtime.store.uploads import put_blob, put_directories, put_path_info
from eka_runtime.view.bind import BindView
from tests.crash import Print, die_at
from tests.unit.nix.trees import File, Link, Tree, directory, to_disk, to_nar
from tests.unit.store.graphs import LARGE, SMALL, path

TREES = 24
_ROOTS = 6


class Job(NamedTuple):
    """`dies_at`: the number of the change before which the child kills itself, -1 for never."""

    store: Path
    far: Path
    scratch: Path
    prefix: str
    seed: int
    operations: int
    dies_at: int = -1


def tree(number: int) -> Tree:
    """One of a few, which share much of what they hold."""
    rng = random.Random(number)

    def file() -> Tree:
        own = rng.randbytes(rng.choice([10, 3000, 40_000, 70_000, 200_000]))
        return File(rng.choice([own, *SMALL, *LARGE]), rng.random() < 0.3)

    def level(depth: int) -> Tree:
        below = {f"d{n}": level(depth - 1) for n in range(rng.randrange(3) if depth else 0)}
        return directory(**{f"f{n}": file() for n in range(rng.randrange(6))}, **below)

    return level(2) if number % 6 else File(rng.randbytes(90_000))


def stream(number: int) -> tuple[StorePath, Callable[[int], bytes]]:
    """The last path of a closure of three, and an export stream of it."""
    a, b, c = (path(f"{number}-{letter}") for letter in "abc")
    items: list[tuple[ExportItem, Tree]] = [
        (ExportItem(a, (), None), tree(number)),
        (ExportItem(b, (a,), None), Link(str(a).encode())),
        (ExportItem(c, tuple(sorted((a, b, c))), None), directory(t=tree(number + 1))),
    ]
    out = io.BytesIO()
    write_export([(item, _writer(to_nar(content))) for item, content in items], out.write)
    return c, io.BytesIO(out.getvalue()).read


def _writer(nar: bytes) -> Callable[[Callable[[bytes], object]], object]:
    return lambda write: write(nar)


def fill(far: Store) -> None:
    """Makes the store that others copy from."""
    for number in range(TREES):
        last, read = stream(number)
        far.import_stream(read)
        far.roots.add(Root(str(number), "named", b"", (last,)))


class Worker:
    """One life's work on an open store; everything is checked that can be told at once."""

    def __init__(self, job: Job, rng: random.Random, store: Store, far: Store, tell: Print) -> None:
        self._job = job
        self._rng = rng
        self._store = store
        self._far = far
        self._tell = tell

    def do_something(self) -> None:
        likely = (self.add, self.take_in, self.collect, self.copy, self.upload, self.read)
        rare = (self.compact, self.restore, self.show, self.drop, self.add_unkept)
        self._rng.choice((*likely, *likely, *rare))()

    def add(self) -> None:
        self._keep(self._added())

    def add_unkept(self) -> None:
        self._added()

    def _added(self) -> PathInfo:
        number = self._rng.randrange(TREES)
        source = to_disk(tree(number), self._fresh())
        try:
            return self._store.add_tree(source, name=f"tree-{number}")
        finally:
            remove_tree(source)

    def take_in(self) -> None:
        last, read = stream(self._rng.randrange(TREES))
        self._store.import_stream(read)
        self._keep(self._store.info(last))

    def collect(self) -> None:
        most = self._rng.choice([None, None, 0, 100_000])
        collect(self._store, Limits(most=most))

    def compact(self) -> None:
        compact(self._store, level=1)

    def copy(self) -> None:
        place, last = services_of(self._far), self._far_path()
        copy_from(self._store, place, missing_here(self._store, place, [last.path]))
        self._keep(self._store.info(last.path))

    def upload(self) -> None:
        """Without its references, which the one path that has none does not need."""
        info = self._far.info(path(f"{self._rng.randrange(TREES)}-a"))
        sent = []
        if isinstance(info.node, DirectoryNode):
            sent = list(leaves_first(info.node.digest, self._far.directories))
        files = [node for one in sent for _, node in one.entries] + [info.node]
        for digest in {node.digest for node in files if isinstance(node, FileNode)}:
            reader = self._far.blobs.open_read(digest)
            assert reader is not None
            with reader:
                assert put_blob(self._store, reader.read) == digest
        if sent:
            put_directories(self._store, sent)
        self._keep(put_path_info(self._store, info))

    def read(self) -> None:
        for root in self._kept()[:2]:
            hashed = hashlib.sha256()
            self._store.export(self._store.closure(root.paths), hashed.update)

    def restore(self) -> None:
        for root in self._kept()[:1]:
            place = self._fresh()
            self._store.restore(root.paths[0], place)
            remove_tree(place)

    def show(self) -> None:
        infos = [self._store.info(root.paths[0]) for root in self._kept()[:3]]
        BindView(self._store).check_out(infos)

    def drop(self) -> None:
        for root in self._kept()[:1]:
            self._drop(root.name)

    def _kept(self) -> list[Root]:
        """In random order."""
        ours = [one for one in self._store.roots.all() if one.name.startswith(self._job.prefix)]
        return self._rng.sample(ours, len(ours))

    def _keep(self, info: PathInfo) -> None:
        name = f"{self._job.prefix}{self._rng.randrange(_ROOTS)}"
        self._drop(name)
        self._store.roots.add(Root(name, "named", b"", (info.path,)))
        self._tell(f"kept {name} {info.path.base} {info.nar_hash.hex()}")

    def _drop(self, name: str) -> None:
        self._tell(f"dropping {name}")
        self._store.roots.remove(name)

    def _far_path(self) -> PathInfo:
        return self._far.info(path(f"{self._rng.randrange(TREES)}-c"))

    def _fresh(self) -> Path:
        return self._job.scratch / f"{os.getpid()}-{self._rng.getrandbits(64):x}"


def work(arguments: list[str], tell: Print) -> None:
    """A child's life; opens the store anew every few operations."""
    *places, prefix, seed, operations, dies_at = arguments
    store, far, scratch = map(Path, places)
    job = Job(store, far, scratch, prefix, int(seed), int(operations), int(dies_at))
    rng = random.Random(job.seed)
    if job.seed % 2:
        # Helpers as for thousands of files, and for long streams.
        tree_module.HELPED_FROM, hashing.APART, intake.APART_FROM = 2, 1 << 18, 1
    if job.seed % 3:
        # The NARs of its trees lie in packs, in small parts.
        recorder._FLUSH, recorder._WORTH = 1 << 10, 0
    tell("ready")
    for life, turns in enumerate(_turns(job, rng)):
        with ExitStack() as opened:
            ours, theirs = (opened.enter_context(Store.open(root)) for root in (store, far))
            if not life and job.dies_at >= 0:
                die_at(job.dies_at, ours.database.connection)
            worker = Worker(job, rng, ours, theirs, tell)
            for _ in range(turns):
                worker.do_something()


def _turns(job: Job, rng: random.Random) -> Iterator[int]:
    left = job.operations
    for _ in count():
        if left <= 0:
            return
        turns = min(left, rng.randint(1, 4))
        left -= turns
        yield turns
