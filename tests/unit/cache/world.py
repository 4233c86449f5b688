"""Three paths, the key that signs them, and short ways to look at caches and to falsify them."""

from __future__ import annotations

import lzma
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from eka_runtime.cache.access import Access
from eka_runtime.cache.answers import Answers
from eka_runtime.cache.client import BinaryCache
from eka_runtime.cache.fetch import fetch
from eka_runtime.cache.files import DirectoryFiles, Files
from eka_runtime.cache.http import HttpFiles, Patience
from eka_runtime.cache.substituter import Plan, Substituter
from eka_runtime.cache.trust import Trust
from eka_runtime.cache.upload import signed
from eka_runtime.nix.export import ExportItem
from eka_runtime.nix.narinfo import NarInfo, format_narinfo, parse_narinfo
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.signing import SecretKey
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from tests.unit.nix.trees import File, Link, Tree, directory
from tests.unit.store.test_transfer import _import, _stream

KEY = SecretKey("test-1", random.Random(1).randbytes(32))
TRUST = Trust((KEY.public,))
A, B, C = (StorePath(letter * 32, letter) for letter in "abc")
NOISE = random.Random(2).randbytes(300_000)
CLOSURE: list[tuple[ExportItem, Tree]] = [
    (ExportItem(A, (), None), directory(noise=File(NOISE), run=File(b"#!/bin/sh\n", True))),
    (ExportItem(B, (A,), None), File(b"b" * 5_000)),
    (ExportItem(C, (A, B, C), None), directory(link=Link(b"noise"), zeros=File(bytes(2 << 20)))),
]
QUICK = Patience(connect=60, read=60, tries=3, pause=0.001, window=60)
"""Short pauses, but all the time that a busy machine may need."""


def fill(store: Store) -> None:
    _import(store, _stream(*CLOSURE))


class Told(NamedTuple):
    """What came of a fetch: paths that became valid, and warnings."""

    valid: list[StorePath]
    warnings: list[str]


def open_files(place: Path | str, patience: Patience = QUICK) -> Files:
    """Of a directory or a URL."""
    if isinstance(place, Path):
        return DirectoryFiles(place)
    return HttpFiles(place, Access({}), patience)


@contextmanager
def substituter(
    *places: Path | str,
    trust: Trust = TRUST,
    answers: Path | None = None,
    warn: Callable[[str], object] = lambda text: None,
    patience: Patience = QUICK,
    hedge: float = 60.0,
    priorities: Sequence[int] = (),
) -> Iterator[Substituter]:
    caches = []
    for number, place in enumerate(places):
        files = open_files(place, patience)
        priority = priorities[number] if priorities else number
        caches.append(BinaryCache(files.name, files, trust, priority=priority))
    remembered = Answers(answers)
    try:
        yield Substituter(caches, remembered, warn, hedge=hedge)
    finally:
        remembered.close()
        for cache in caches:
            cache.files.close()


def plan(caches: Substituter, store: Store, *paths: StorePath) -> Plan:
    return caches.plan(store, {path.hash: exactly(path) for path in paths})


def exactly(path: StorePath) -> Callable[[NarInfo], bool]:
    return lambda info: info.path == path


def bring(store: Store, caches: Substituter, *paths: StorePath) -> Told:
    """Plans and fetches; raises what is against a path."""
    told = Told([], [])
    found = plan(caches, store, *paths)
    for trouble in found.absent.values():
        assert trouble is not None, "not found"
        raise trouble

    def each(info: PathInfo) -> None:
        told.valid.append(info.path)

    fetch(store, caches, found.found, each=each, warn=told.warnings.append, jobs=4)
    return told


def narinfo(cache: Path, path: StorePath) -> NarInfo:
    return parse_narinfo((cache / f"{path.hash}.narinfo").read_bytes())


def falsify(cache: Path, path: StorePath, *, sign: bool = True, **changes: object) -> NarInfo:
    """Changes a narinfo; signed anew by the trusted key, as if its owner were the liar."""
    changed = narinfo(cache, path)._replace(**changes)  # type: ignore[arg-type]
    if sign:
        changed = signed(changed._replace(signatures=()), [KEY])
    (cache / f"{path.hash}.narinfo").write_bytes(format_narinfo(changed))
    return changed


def nar_file(cache: Path, path: StorePath) -> Path:
    return cache / narinfo(cache, path).url


def recompress(cache: Path, path: StorePath) -> Path:
    """The NAR of a path as xz, for bombs and cuts."""
    packed = lzma.compress(nar_file(cache, path).read_bytes(), preset=0)
    (cache / "nar" / "packed.xz").write_bytes(packed)
    falsify(
        cache,
        path,
        url="nar/packed.xz",
        compression="xz",
        file_size=len(packed),
        file_hash=None,
    )
    return cache / "nar" / "packed.xz"
