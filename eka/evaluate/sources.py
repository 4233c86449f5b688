"""Where the inputs of an evaluation come from: the local set, and what the lock names.

What was fetched is a path of the store, found again without asking anybody. Out of scope: choosing
versions (`eka resolve`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from eka.atom.identity import NO_GENESIS
from eka.atom.lock import LockedAtom, LockedFile, LockedGit
from eka.atom.manifest import FILE as MANIFEST
from eka.atom.manifest import parse_package
from eka.atom.set_file import FILE as SET_FILE
from eka.atom.set_file import parse_set_file
from eka.evaluate.graph import NO_SET, LocalSet
from eka_runtime.errors import EkaError, PathNotFound, ServiceError
from eka_runtime.nix.path import StorePath
from eka_runtime.store.store import Store


class StoreSources(NamedTuple):
    """Sources for one open store."""

    store: Store

    def local_set(self, directory: Path) -> LocalSet:
        return find_local_set(directory)

    def atom(self, locked: LockedAtom) -> StorePath:
        raise ServiceError(f"the atom `{locked.label}` of `{locked.mirror}` is not here")

    def pin(self, locked: LockedFile | LockedGit) -> StorePath:
        raise ServiceError(f"`{locked.name}` of `{locked.url}` is not here")

    def read(self, path: StorePath, name: str) -> bytes | None:
        found = bytearray()
        try:
            self.store.write_file(f"{path}/{name}", found.extend)
        except PathNotFound:
            return None
        return bytes(found)


def find_local_set(directory: Path) -> LocalSet:
    """That of the nearest directory above which has an ekala.toml."""
    for place in (directory, *directory.parents):
        if (place / SET_FILE).is_file():
            return _read_set(place)
    return NO_SET


def _read_set(root: Path) -> LocalSet:
    found = parse_set_file((root / SET_FILE).read_bytes(), os.fspath(root / SET_FILE))
    atoms = {}
    for package in found.packages:
        place = root / package / MANIFEST
        try:
            atoms[parse_package(place.read_bytes(), os.fspath(place)).label] = root / package
        except (OSError, EkaError):
            continue  # somebody else's mistake: an atom that needs it will say so
    return LocalSet(NO_GENESIS, atoms)
