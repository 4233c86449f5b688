"""The set around a directory: its `ekala.toml`, its atoms by label, its genesis.

In a git work tree the file is at the root of it; elsewhere it is the nearest one upward. Labels
and versions are read from the work tree; publishing reads a commit (`eka/atom/publish.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from eka.atom import manifest
from eka.atom.identity import NO_GENESIS
from eka.atom.manifest import Package, parse_package
from eka.atom.repository import Repository
from eka.atom.set_file import FILE, SetFile, parse_set_file
from eka.atom.toml_file import SIZE_LIMIT, read_bytes
from eka_runtime.errors import GitError, ManifestError, UsageError


class Member(NamedTuple):
    """An atom of a set; `path` is relative to the set's root."""

    path: str
    package: Package


class LocalSet(NamedTuple):
    """`repository` is None outside git."""

    root: Path
    repository: Repository | None
    file: SetFile
    members: Mapping[str, Member]
    unreadable: tuple[str, ...]
    """What is wrong with listed packages that could not be read: they are not in `members`."""

    def genesis(self) -> str:
        """Raises GitError where nothing is committed yet, or the history is not whole."""
        if self.repository is None:
            return NO_GENESIS
        try:
            return self.repository.genesis("HEAD")
        except GitError:
            self.repository.commit("HEAD")  # says so where there is none yet
            raise

    def genesis_or_none(self) -> str:
        """As `genesis`, and NO_GENESIS where nothing is committed yet. Raises GitError."""
        try:
            return self.genesis()
        except GitError:
            if self.repository is None or self.repository.ref("HEAD") is not None:
                raise
            return NO_GENESIS


def find_set_root(directory: Path) -> tuple[Path, Repository | None] | None:
    """None if `directory` is in no set."""
    repository = Repository.discover(directory)
    if repository is not None and not repository.bare:
        root = repository.root
        return (root, repository) if (root / FILE).is_file() else None
    for place in (directory, *directory.parents):
        if (place / FILE).is_file():
            return place, None
    return None


def open_set(directory: Path) -> LocalSet:
    """The set that `directory` is in. Raises UsageError if none, ManifestError."""
    found = find_set_root(directory)
    if found is None:
        raise UsageError(
            f"`{directory}` is in no package set: there is no `{FILE}`", hint="run `eka init` first"
        )
    return load_set(*found)


def load_set(root: Path, repository: Repository | None) -> LocalSet:
    """Raises ManifestError, also for two packages with one label."""
    place = root / FILE
    file = parse_set_file(read_bytes(place, ManifestError, SIZE_LIMIT), os.fspath(place))
    wrong: list[str] = []

    def read(path: str) -> bytes | None:
        member = root / path / manifest.FILE
        if not member.resolve().is_relative_to(root.resolve()):
            raise ManifestError(f"`{path}` of `{place}` leads out of the set")
        return read_bytes(member, ManifestError, SIZE_LIMIT)

    members = dict(read_members(file, read, wrong, os.fspath(place)))
    return LocalSet(root, repository, file, members, tuple(wrong))


def read_members(
    file: SetFile, read: Callable[[str], bytes | None], wrong: list[str], name: str
) -> Iterator[tuple[str, Member]]:
    """Labels and atoms; `read` gives the manifest of a package's path.

    What cannot be read is added to `wrong` and left out. Raises ManifestError for a repeated label.
    """
    seen: dict[str, str] = {}
    for path in file.packages:
        try:
            data = read(path)
            if data is None:
                raise ManifestError(f"`{path}/{manifest.FILE}` is not there")
            package = parse_package(data, f"{path}/{manifest.FILE}")
        except ManifestError as error:
            wrong.append(str(error))
            continue
        label = package.label
        if label in seen:
            raise ManifestError(
                f"`{name}`: `{seen[label]}` and `{path}` both have the label `{label}`",
                hint="labels are unique in a set: change one of them",
            )
        seen[label] = path
        yield label, Member(path, package)
