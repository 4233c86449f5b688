"""Checks an atom's directory: manifest, lock, and everything that the lock names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from eka.atom import lock as lock_format
from eka.atom import manifest as manifest_format
from eka.atom.direct import tag_version
from eka.atom.git_url import LOCAL
from eka.atom.lock import (
    Lock,
    LockedAtom,
    LockedFile,
    LockedGit,
    LockedSource,
    LockedWith,
    read_lock,
)
from eka.atom.manifest import Manifest, read_manifest
from eka.atom.mirrors import absolute_place
from eka.atom.publish import out_of_step
from eka.atom.remote import Listing, list_refs
from eka.atom.repository import Repository
from eka.atom.sets import LocalSet
from eka.atom.verify import (
    Finding,
    Publication,
    Report,
    remembered,
    scratch,
    verify_publication,
    verify_set,
)
from eka_runtime.errors import EkaError, LockError, ManifestError


class LockVerifier:
    """Of atoms of one set; `offline` leaves out what needs the network, with a finding each."""

    def __init__(
        self, local: LocalSet, cache: Path, report: Report, *, offline: bool = False
    ) -> None:
        self._local = local
        self._cache = cache
        self._report = report
        self._offline = offline
        self._listings: dict[str, Listing | None] = {}

    def verify(self, directory: Path) -> None:
        """Raises nothing that is wrong with the atom: all of it becomes findings."""
        name = os.path.relpath(directory, self._local.root)
        try:
            manifest = read_manifest(directory)
            self._say(name, "manifest", True)
        except ManifestError as error:
            self._say(name, "manifest", False, str(error))
            return
        try:
            lock = read_lock(directory)
            self._say(name, "lock", True)
        except LockError as error:
            self._say(name, "lock", False, str(error))
            return
        self._fits(name, manifest, lock)
        with scratch() as repository:
            self._sets(lock, repository)
        for dep in lock.deps:
            if isinstance(dep, LockedFile):
                self._file(dep)
            elif isinstance(dep, LockedGit):
                self._tag(dep)
            elif isinstance(dep, LockedSource):
                self._source(dep)

    def _say(self, subject: str, check: str, ok: bool | None, message: str = "") -> None:
        self._report(Finding(subject, check, ok, message))

    def _fits(self, name: str, manifest: Manifest, lock: Lock) -> None:
        stale = list(out_of_step(manifest, lock))
        files = f"`{lock_format.FILE}` does not fit `{manifest_format.FILE}`"
        self._say(name, "in step", not stale, f"{files}: {', '.join(stale)}" if stale else "")

    def _sets(self, lock: Lock, repository: Repository) -> None:
        locker = [lock.locker] if lock.locker else []
        composer = [lock.compose.atom] if isinstance(lock.compose, LockedWith) else []
        mirrors = {genesis: found.mirrors for genesis, found in lock.sets.items()}
        for genesis, places in mirrors.items():
            self._mirrors(genesis, places)
        for atom in dict.fromkeys((*locker, *composer, *lock.atoms())):
            if atom.rev is None:
                self._local_atom(atom, mirrors)
            else:
                self._atom(atom, mirrors, repository)

    def _mirrors(self, genesis: str, places: Iterable[str]) -> None:
        for place in places:
            if place == LOCAL:
                try:
                    own = self._local.genesis()
                    self._say("::", "genesis", own == genesis, f"this set is {own}, not {genesis}")
                except EkaError as error:
                    self._say("::", "genesis", False, str(error))
            elif listing := self._listing(place):
                same = listing.genesis == genesis
                said = f"the set there is {listing.genesis}, not {genesis}"
                self._say(place, "genesis", same, "" if same else said)

    def _listing(self, place: str) -> Listing | None:
        if place not in self._listings:
            if self._offline:
                self._say(place, "set", None, "not asked: offline")
                self._listings[place] = None
            else:
                self._listings[place] = verify_set(place, self._local.root, self._report)
        return self._listings[place]

    def _local_atom(self, atom: LockedAtom, mirrors: Mapping[str, tuple[str, ...]]) -> None:
        member = self._local.members.get(atom.label)
        here = LOCAL in mirrors.get(atom.set, ())
        same = member is not None and member.package.version[:3] == atom.version[:3]
        said = "it is locked from this set, which does not have that version"
        self._say(f"{atom.label} {atom.version}", "local", here and same, said)

    def _atom(
        self, atom: LockedAtom, mirrors: Mapping[str, tuple[str, ...]], repository: Repository
    ) -> None:
        """On every mirror of its set that answers; fetched and recomputed from the first."""
        assert atom.rev is not None  # the caller looked
        places = [*([atom.mirror] if atom.mirror else []), *mirrors.get(atom.set, ())]
        whole = False
        for place in dict.fromkeys(places):
            listing = self._listing(place) if place != LOCAL else None
            if listing is None:
                continue
            publication = Publication(place, atom.label, atom.version, atom.rev, atom.set)
            there = listing.atoms.get(atom.label, {}).get(atom.version)
            if there is None:
                # A mirror may lag behind; the one that is locked may not.
                gone = place == atom.mirror
                self._say(publication.name, "ref", False if gone else None, "it is not there")
                continue
            same = there == atom.rev
            said = f"its ref is {there}, but {atom.rev} is locked: it was moved"
            self._say(publication.name, "ref", same, "" if same else said)
            if same and not whole:
                whole = True
                self._recompute(publication, repository)

    def _recompute(self, publication: Publication, repository: Repository) -> None:
        known = remembered(self._cache, publication)
        if known not in (None, publication.rev):
            said = f"this machine fetched it as {known} once"
            self._say(publication.name, "remembered", False, said)
        try:
            verify_publication(repository, publication, self._local.root, self._report)
        except EkaError as error:
            self._say(publication.name, "fetch", False, str(error))

    def _file(self, dep: LockedFile) -> None:
        from eka.atom.archive import hash_unpacked
        from eka.atom.download import Downloads

        try:
            got = Downloads(self._cache / "downloads", offline=self._offline).get(dep.url)
            unpack = dep.type == "nix+tar" or dep.unpack
            found = (hash_unpacked(got.file) if unpack else got.hash()).sri()
        except EkaError as error:
            self._say(dep.name, "hash", None, str(error))
            return
        same = found == dep.hash
        said = f"`{dep.url}` has the hash {found}, but {dep.hash} is locked"
        self._say(dep.name, "hash", same, "" if same else said)

    def _source(self, dep: LockedSource) -> None:
        repository = self._local.repository
        found = repository.ref(f"{dep.tree}^{{tree}}") if repository else None
        self._say(dep.name, "source", found == dep.tree, f"this repository has no tree {dep.tree}")

    def _tag(self, dep: LockedGit) -> None:
        """Only tags stay where they are; branches may go on."""
        if dep.version is None or self._offline:
            return
        try:
            refs = list_refs(absolute_place(dep.url, self._local.root), None, "refs/tags/*")
        except EkaError as error:
            self._say(dep.name, "tag", None, str(error))
            return
        found = [oid for ref, oid in refs.items() if tag_version(ref) == dep.version]
        said = f"the tag of {dep.version} is {', '.join(found) or 'gone'}, locked is {dep.rev}"
        self._say(dep.name, "tag", dep.rev in found, "" if dep.rev in found else said)
