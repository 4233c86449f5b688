"""From an atom's directory to the closure of everything that its evaluation needs.

The lock says what, exactly; `Sources` makes it be there, by fetching what the store lacks. Each
atom's own lock says what it depends on, so there is no version to choose. A dependency of a local
atom from a set that has the mirror `::` is the directory of that label in the local set.

Constraint: everything is found before evaluation, and no network is needed during it. Out of scope:
whether a lock is up to date (`eka resolve --check`), fetching (`sources.py`).
"""

from __future__ import annotations

import os
from _blake2 import blake2b
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import tomli

from eka.atom.identity import NO_GENESIS, atom_id
from eka.atom.lock import FILE as LOCK
from eka.atom.lock import (
    Lock,
    LockedAtom,
    LockedFile,
    LockedGit,
    LockedNix,
    LockedSource,
    LockedStatic,
    LockedWith,
    parse_lock,
)
from eka.atom.manifest import FILE as MANIFEST
from eka.atom.manifest import Manifest, parse_manifest
from eka.atom.parts import ComposeNix, ComposeStatic
from eka.evaluate.config import Choices, Config, Declared, effective, for_dependency
from eka.evaluate.request import AtomNode, Compose, Deps, Graph
from eka_runtime.errors import LockError, ManifestError
from eka_runtime.nix.path import StorePath

LOCAL = "::"
INNER = "/eka/atoms"
_RESOLVE = "run `eka resolve {where}`"


class LocalSet(NamedTuple):
    """`atoms` are the directories of the set's labels; `genesis` is the set's identity."""

    genesis: str
    atoms: Mapping[str, Path]


NO_SET = LocalSet(NO_GENESIS, {})


class Sources(Protocol):
    """Where things come from. What it names is valid in the store; fetched, if need be."""

    def local_set(self, directory: Path) -> LocalSet:
        """The set that an atom's directory is in."""

    def atom(self, locked: LockedAtom, mirrors: Iterable[str] = ()) -> StorePath:
        """The tree of an atom commit; `mirrors` are tried after the one that the lock names."""

    def pin(self, locked: LockedFile | LockedGit) -> StorePath: ...

    def electron(self, locked: LockedSource, mirrors: Iterable[str] = ()) -> StorePath:
        """A tree of a set's own repository; `mirrors` are the set's."""

    def read(self, path: StorePath, name: str) -> bytes | None:
        """A file at the top of a tree in the store; None if it is not there."""


class _Tree(NamedTuple):
    """The files of one atom: on the host at `directory`, or in the store at `path`.

    `mirrors` are places of its set, as far as whoever named it knows.
    """

    key: str
    directory: Path | None
    path: StorePath | None
    sources: Sources
    mirrors: tuple[str, ...] = ()

    def __str__(self) -> str:
        return os.fspath(self.directory) if self.directory else str(self.path)

    def read(self, name: str) -> bytes | None:
        if self.directory is None:
            assert self.path is not None
            return self.sources.read(self.path, name)
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            place = self.directory / name
            raise ManifestError(f"cannot read `{place}`: {error.strerror}") from error

    def manifest(self) -> tuple[Manifest, Mapping[str, object]]:
        """Checked, and as plain TOML."""
        data = self.read(MANIFEST)
        if data is None:
            raise ManifestError(f"`{self}` has no {MANIFEST}", hint="make one with `eka new`")
        return parse_manifest(data, f"{self}/{MANIFEST}"), tomli.loads(data.decode("utf-8"))

    def lock(self, manifest: Manifest) -> Lock:
        """Its lock, or what one would say for an atom that needs nothing."""
        data = self.read(LOCK)
        if data is not None and not isinstance(manifest.compose, ComposeStatic):
            # No locker is run here, so a lock of others may do without.
            lock = parse_lock(data, f"{self}/{LOCK}", lenient=True)
            _check_lock(manifest, lock, self)
            return lock
        if isinstance(manifest.compose, ComposeStatic):
            return Lock(LockedStatic())
        needs = manifest.deps or manifest.direct or manifest.sources
        if isinstance(manifest.compose, ComposeNix) and not needs:
            return Lock(LockedNix(manifest.compose.entry))
        raise LockError(f"`{self}` has no {LOCK}", hint=_RESOLVE.format(where=self))


def _check_lock(manifest: Manifest, lock: Lock, tree: _Tree) -> None:
    """Raises LockError for a lock that lacks what the manifest asks for."""
    wanted = {(tag, label) for tag, atoms in manifest.deps.items() for label in atoms}
    tags = {genesis: found.tag for genesis, found in lock.sets.items()}
    have = {(tags.get(atom.set, ""), atom.label) for atom in lock.atoms()}
    names = {dep.name for dep in lock.deps if isinstance(dep, LockedFile | LockedGit)}
    missing = [f"{tag}::{label}" for tag, label in sorted(wanted - have)]
    missing += sorted(set(manifest.direct) - names)
    missing += sorted(set(manifest.sources) - {source.name for source in lock.sources()})
    compose = manifest.compose
    if isinstance(compose, ComposeNix):
        same = isinstance(lock.compose, LockedNix) and lock.compose.entry == compose.entry
    else:
        same = isinstance(lock.compose, LockedWith) and not isinstance(compose, ComposeStatic)
        same = same and lock.compose.atom.label == compose.label  # type: ignore[union-attr]
    if missing or not same:
        what = f"lacks `{missing[0]}`" if missing else "has another composer"
        raise LockError(f"`{tree}/{LOCK}` is stale: it {what}", hint=_RESOLVE.format(where=tree))


def atom_graph(directory: Path, choices: Choices, sources: Sources) -> Graph:
    """Raises ManifestError, LockError, OptionError, and what `sources` raises."""
    return _Building(sources, sources.local_set(directory), choices).graph(directory)


def published_graph(locked: LockedAtom, choices: Choices, sources: Sources) -> Graph:
    """As `atom_graph`, of an atom that is published somewhere."""
    return _Building(sources, NO_SET, choices).published(locked)


class _Building:
    def __init__(self, sources: Sources, local: LocalSet, choices: Choices) -> None:
        self._sources = sources
        self._local = local
        self._choices = choices
        self._atoms: dict[str, AtomNode] = {}
        self._numbers: dict[str, int] = {}
        self._pins: dict[str, StorePath] = {}
        self._get: dict[str, dict[str, str]] = {}
        self._stored: set[StorePath] = set()
        self._config: Config | None = None
        self._root = Path()

    def graph(self, directory: Path) -> Graph:
        self._root = directory
        return self._made(self._atom(_Tree("root", directory, None, self._sources), None))

    def published(self, locked: LockedAtom) -> Graph:
        path = self._sources.atom(locked)
        self._stored.add(path)
        return self._made(self._atom(_stored("root", path, self._sources, locked), locked))

    def _made(self, key: str) -> Graph:
        assert self._config is not None
        stored = tuple(sorted(self._stored))
        members = tuple(os.fspath(place / MANIFEST) for place in self._local.atoms.values())
        return Graph(key, self._atoms, self._pins, self._get, self._config, (), stored, members)

    def _atom(self, tree: _Tree, locked: LockedAtom | None) -> str:
        if tree.key in self._numbers:
            return tree.key
        number = self._numbers[tree.key] = len(self._numbers)
        manifest, raw = tree.manifest()
        label = manifest.package.label
        config = self._configure(Declared.of(manifest), label)
        lock = tree.lock(manifest)
        compose, deps = self._compose(tree, lock), self._deps(tree, lock)
        self._atoms[tree.key] = AtomNode(
            label,
            str(manifest.package.version),
            locked.id if locked else atom_id(self._local.genesis, label),
            os.fspath(tree.directory) if tree.directory else None,
            f"{INNER}/{number}/{label}" if tree.directory else str(tree.path),
            compose,
            deps,
            raw,
            config.values,
        )
        return tree.key

    def _configure(self, declared: Declared, label: str) -> Config:
        if self._config is None:
            self._config = effective(declared, self._choices)
            return self._config
        return for_dependency(declared, self._config, label)

    def _compose(self, tree: _Tree, lock: Lock) -> Compose:
        compose = lock.compose
        if isinstance(compose, LockedWith):
            composer = self._dependency(tree, lock, compose.atom)
            return Compose("atom", compose.entry, composer)
        return (
            Compose("nix", compose.entry) if isinstance(compose, LockedNix) else Compose("static")
        )

    def _deps(self, tree: _Tree, lock: Lock) -> Deps:
        atoms: dict[str, dict[str, str]] = {}
        pins: dict[str, str] = {}
        get: dict[str, str] = {}
        for dep in lock.deps:
            if isinstance(dep, LockedAtom):
                tag = lock.sets[dep.set].tag if dep.set in lock.sets else ""
                atoms.setdefault(tag, {})[dep.label] = self._dependency(tree, lock, dep)
            elif isinstance(dep, LockedFile) and dep.type == "nix+src":
                key = _key(dep.url, dep.hash)
                self._get[key] = {"url": dep.url, "hash": dep.hash}
                get[dep.name] = key
            elif isinstance(dep, LockedFile | LockedGit):
                key = _key(*map(str, dep))
                if key not in self._pins:
                    self._pins[key] = self._sources.pin(dep)
                pins[dep.name] = key
        return Deps(atoms, pins, get, self._electrons(tree, lock))

    def _electrons(self, tree: _Tree, lock: Lock) -> dict[str, str]:
        own = [found.mirrors for found in lock.sets.values() if LOCAL in found.mirrors]
        mirrors = (*tree.mirrors, *(place for places in own for place in places))
        found = {}
        for source in lock.sources():
            key = _key(source.tree)
            if key not in self._pins:
                self._pins[key] = self._sources.electron(source, mirrors)
            found[source.name] = key
        return found

    def _dependency(self, tree: _Tree, lock: Lock, locked: LockedAtom) -> str:
        mirrors = lock.sets[locked.set].mirrors if locked.set in lock.sets else ()
        if tree.directory is not None and LOCAL in mirrors and locked.label in self._local.atoms:
            directory = self._local.atoms[locked.label]
            key = "root" if directory == self._root else f"local:{locked.label}"
            return self._atom(_Tree(key, directory, None, self._sources), locked)
        if locked.rev is None:
            raise LockError(
                f"`{tree}/{LOCK}` has `{locked.label}` as an atom of the local set, which does not"
                " have it",
                hint="publish it, or list its directory in `ekala.toml`"
                if tree.directory
                else "ask whoever published the atom to publish what it depends on",
            )
        path = self._sources.atom(locked, mirrors)
        self._stored.add(path)
        key = f"{locked.label}-{locked.rev}"
        return self._atom(_stored(key, path, self._sources, locked, mirrors), locked)


def _stored(
    key: str, path: StorePath, sources: Sources, locked: LockedAtom, mirrors: Iterable[str] = ()
) -> _Tree:
    """A published atom, whose set is where it was fetched from."""
    places = (*((locked.mirror,) if locked.mirror else ()), *mirrors)
    return _Tree(key, None, path, sources, tuple(dict.fromkeys(places)))


def _key(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(), digest_size=10).hexdigest()
