"""Brings a lock in step with its manifest: what is locked and still fits stays as it is.

Only what is missing or does not fit is looked up, and only its set is asked; a lock that fits
needs no network at all. Differs from upstream where that is wrong: the composer stays pinned too,
a local atom satisfies a dependency only of a set that has the mirror `::` and only if its version
does, changes of a direct dependency's variety or version are noticed, and a direct dependency that
cannot be resolved is an error. Out of scope: files (`eka/atom/workspace.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from eka.atom.direct import Locked, concrete_url, is_current
from eka.atom.git_url import LOCAL
from eka.atom.identity import atom_id
from eka.atom.lock import (
    NIX_LOCK,
    Dependency,
    Lock,
    LockedAtom,
    LockedCompose,
    LockedFile,
    LockedGit,
    LockedNix,
    LockedSet,
    LockedSource,
    LockedStatic,
    LockedWith,
)
from eka.atom.manifest import Manifest
from eka.atom.mirrors import Mirrors, ResolvedSet
from eka.atom.parts import ComposeNix, ComposeWith, Direct
from eka.atom.sets import LocalSet
from eka.atom.version import ANY, Requirement, Version, sort_key
from eka_runtime.errors import ManifestError, ResolveError

LOCAL_PRE = "local"

LockDirect = Callable[[str, Direct, str], Locked]


class Wanted(NamedTuple):
    tag: str
    label: str
    requirement: Requirement


class Resolver:
    """Resolves for one manifest; `old` is the lock to keep what fits of, None for a fresh one.

    `moved` says of a git dependency by name whether the manifest asks for another ref than when it
    was locked, which the lock does not tell.
    """

    def __init__(
        self,
        manifest: Manifest,
        local: LocalSet,
        mirrors: Mirrors,
        old: Lock | None,
        lock_direct: LockDirect,
        moved: Callable[[str, Direct], bool] = lambda name, direct: False,
    ) -> None:
        self._manifest = manifest
        self._local = local
        self._mirrors = mirrors
        self._old = old
        self._lock_direct = lock_direct
        self._moved = moved
        self._kept = _kept_sets(manifest, old, mirrors)
        self._asked: dict[str, ResolvedSet] = {}

    def run(self) -> Lock:
        """Raises ResolveError, GitError, ServiceError, ManifestError."""
        self._ask(self._tags_to_ask())
        compose = self._compose()
        atoms = [self._atom(wanted) for wanted in self._wanted()]
        direct = self._direct(atoms)
        sources = self._sources()
        locker = self._old.locker if self._old and self._old.locker else NIX_LOCK
        return Lock(compose, self._sets(), locker, (*atoms, *direct, *sources))

    def _wanted(self) -> Iterator[Wanted]:
        for tag, atoms in self._manifest.deps.items():
            for label, requirement in atoms.items():
                yield Wanted(tag, label, requirement)

    def _composer(self) -> Wanted | None:
        compose = self._manifest.compose
        if not isinstance(compose, ComposeWith):
            return None
        return Wanted(compose.set_tag, compose.label, compose.requirement or ANY)

    def _tags_to_ask(self) -> list[str]:
        """Sets of which anything is not known from the lock."""
        tags = [tag for tag in self._manifest.package.sets if tag not in self._kept]
        composer = self._composer()
        for wanted in (*self._wanted(), *([composer] if composer else ())):
            if wanted.tag not in tags and self._still_locked(wanted, composer) is None:
                tags.append(wanted.tag)
        return tags

    def _ask(self, tags: list[str]) -> None:
        sets = self._manifest.package.sets
        self._asked = self._mirrors.resolve({tag: sets[tag] for tag in tags})
        known = {genesis: tag for tag, genesis in self._kept.items() if tag not in self._asked}
        for tag, found in self._asked.items():
            if found.genesis in known:
                raise ResolveError(
                    f"`{known[found.genesis]}` and `{tag}` are one set, {found.genesis}",
                    hint="give all its mirrors to one tag of `[package.sets]`",
                )

    def _genesis(self, tag: str) -> str:
        return self._asked[tag].genesis if tag in self._asked else self._kept[tag]

    def _sets(self) -> dict[str, LockedSet]:
        sets = self._manifest.package.sets
        return {self._genesis(tag): LockedSet(tag, mirrors) for tag, mirrors in sets.items()}

    def _still_locked(self, wanted: Wanted, composer: Wanted | None) -> LockedAtom | None:
        """What the old lock has for it, if that fits."""
        if self._old is None or wanted.tag not in self._kept:
            return None
        compose = self._old.compose
        atoms = self._old.atoms()
        if wanted == composer:
            atoms = (compose.atom,) if isinstance(compose, LockedWith) else ()
        for atom in atoms:
            if (atom.set, atom.label) == (self._kept[wanted.tag], wanted.label):
                if atom.rev is None:
                    # Once it is published, that is better; but nobody can be asked offline.
                    urls = any(m != LOCAL for m in self._manifest.package.sets[wanted.tag])
                    ask = urls and not self._mirrors.offline
                    return None if ask else self._local_atom(wanted, atom.set)
                return atom if wanted.requirement.matches(atom.version) else None
        return None

    def _atom(self, wanted: Wanted) -> LockedAtom:
        if kept := self._still_locked(wanted, self._composer()):
            return kept
        return self._looked_up(wanted)

    def _looked_up(self, wanted: Wanted) -> LockedAtom:
        found = self._asked[wanted.tag]
        offers = found.offers.get(wanted.label, {})
        best = wanted.requirement.highest(offers)
        if best is not None:
            offer = offers[best]
            id_ = atom_id(found.genesis, wanted.label)
            return LockedAtom(wanted.label, best, found.genesis, offer.rev, offer.mirrors[0], id_)
        if local := self._local_atom(wanted, found.genesis):
            return local
        raise self._no_match(wanted, offers)

    def _local_atom(self, wanted: Wanted, genesis: str) -> LockedAtom | None:
        """From the work tree, and only for a set that says it is the one we are in."""
        member = self._local.members.get(wanted.label)
        if LOCAL not in self._manifest.package.sets[wanted.tag] or member is None:
            return None
        version = member.package.version
        if not wanted.requirement.matches(version):
            return None
        shown = Version(*version[:3], LOCAL_PRE)
        return LockedAtom(wanted.label, shown, genesis, None, None, atom_id(genesis, wanted.label))

    def _no_match(self, wanted: Wanted, offers: Mapping[Version, object]) -> ResolveError:
        versions = sorted(offers, key=sort_key)
        if LOCAL in self._manifest.package.sets[wanted.tag]:
            member = self._local.members.get(wanted.label)
            versions += [member.package.version] if member else []
        if not versions:
            known = sorted(self._asked[wanted.tag].offers)
            hint = f"it has {', '.join(f'`{name}`' for name in known[:8])}" if known else None
            return ResolveError(f"the set `{wanted.tag}` has no atom `{wanted.label}`", hint=hint)
        listed = ", ".join(map(str, versions[-8:]))
        return ResolveError(
            f"no version of `{wanted.label}` of `{wanted.tag}` matches `{wanted.requirement}`",
            hint=f"its versions: {listed}",
        )

    def _compose(self) -> LockedCompose:
        compose = self._manifest.compose
        if isinstance(compose, ComposeWith):
            composer = self._composer()
            assert composer is not None
            return LockedWith(self._atom(composer), compose.entry)
        return LockedNix(compose.entry) if isinstance(compose, ComposeNix) else LockedStatic()

    def _direct(self, atoms: list[LockedAtom]) -> list[Dependency]:
        """After the atoms, whose versions URLs may have."""
        tags = {self._genesis(tag): tag for tag in self._manifest.package.sets}
        versions = {(tags[atom.set], atom.label): atom.version for atom in atoms}
        old = _nix_dependencies(self._old)
        locked: list[Dependency] = []
        for name, direct in self._manifest.direct.items():
            url = concrete_url(direct, versions)
            kept = old.get(name)
            if kept and is_current(direct, url, kept) and not self._moved(name, direct):
                locked.append(kept)
            else:
                locked.append(self._lock_direct(name, direct, url))
        return locked

    def _sources(self) -> Iterator[LockedSource]:
        for name in self._manifest.sources:
            path = self._local.file.sources.get(name)
            if path is None:
                raise ManifestError(
                    f"`build.sources` names `{name}`, which `ekala.toml` does not have",
                    hint=f'add `{name} = "path"` to its `[build.sources]`',
                )
            repository = self._local.repository
            if repository is None:
                raise ResolveError(
                    f"the source `{name}` needs a git repository", hint="run `eka init --git`"
                )
            commit = repository.commit("HEAD")
            tree = repository.tree(commit, "" if path == "." else path)
            if tree is None or repository.ref(f"{tree}^{{tree}}") != tree:
                raise ResolveError(
                    f"the source `{name}`, `{path}`, is no directory of the last commit",
                    hint="commit it",
                )
            yield LockedSource(name, tree)


def _nix_dependencies(lock: Lock | None) -> dict[str, Locked]:
    deps = lock.deps if lock else ()
    return {dep.name: dep for dep in deps if isinstance(dep, (LockedFile, LockedGit))}


def _kept_sets(manifest: Manifest, old: Lock | None, mirrors: Mirrors) -> dict[str, str]:
    """Genesis by tag of the sets whose mirrors are those of the lock, `::` being here."""
    kept: dict[str, str] = {}
    for genesis, found in old.sets.items() if old else ():
        same = manifest.package.sets.get(found.tag) == found.mirrors
        if same and (LOCAL not in found.mirrors or mirrors.local_genesis() == genesis):
            kept[found.tag] = genesis
    return kept
