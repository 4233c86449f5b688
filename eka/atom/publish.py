"""Publishes atoms: plans from one commit and one listing of the remote, then pushes all at once.

Everything is read from the commit, never from the work tree. A version that is there with the same
tree is done, whatever commit it came from; one that is there with another tree is refused. Local
refs are only a record: what an interrupted push left is used or replaced, so trying again works.
Source of the format: upstream (spec/atom.md); checks that it lacks are made before anything is
written, and can be switched off where upstream would publish.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from eka.atom import lock as lock_format
from eka.atom import manifest as manifest_format
from eka.atom.cache import fetch_ref, read_atom_commit
from eka.atom.direct import concrete_url, is_current
from eka.atom.git import git_error, try_git
from eka.atom.identity import atom_id
from eka.atom.initialize import check_remote
from eka.atom.lock import (
    Lock,
    LockedFile,
    LockedGit,
    LockedStatic,
    LockedWith,
    parse_lock,
)
from eka.atom.manifest import Manifest, parse_manifest
from eka.atom.parts import ComposeStatic, ComposeWith
from eka.atom.remote import list_refs, parse_atoms
from eka.atom.repository import (
    AtomRefs,
    Repository,
    atom_commit_body,
    source_commit_body,
    source_ref,
)
from eka.atom.set_file import FILE as SET_FILE
from eka.atom.set_file import SetFile, parse_set_file
from eka.atom.sets import Member, read_members
from eka.atom.version import ANY, Version, sort_key
from eka_runtime.errors import (
    AtomMismatch,
    EkaError,
    LockError,
    ManifestError,
    UsageError,
)

State = Literal["new", "published", "refused"]


class Step(NamedTuple):
    """One atom of the plan. `rev` is the atom commit, of `published` that of the remote.

    `problem` says why it is refused; `notes` are for people.
    """

    label: str
    version: Version
    path: str
    state: State
    id: str
    rev: str | None
    manifest: str
    problem: EkaError | None = None
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = {}
    """Commits of electrons that the remote has not, by ref."""


class Plan(NamedTuple):
    """What publishing will do; the objects of new atoms are written, nothing else is."""

    remote: str
    origin: str
    genesis: str
    steps: tuple[Step, ...]

    def refs(self) -> dict[str, str]:
        """Object ids by ref, of all new atoms."""
        refs: dict[str, str] = {}
        for step in self.steps:
            if step.state == "new" and step.rev:
                names = AtomRefs.of(step.label, step.version)
                refs |= {names.manifest: step.manifest, names.content: step.rev}
                refs[names.origin] = self.origin
                refs |= step.sources
        return refs


class Source:
    """A commit of the repository, with its set file and atoms."""

    def __init__(self, repository: Repository, commit: str) -> None:
        self.repository = repository
        self.commit = commit
        self.file = self._set_file()
        self.problems: list[str] = []
        self.members = dict(
            read_members(self.file, self._manifest, self.problems, f"{commit[:12]}:{SET_FILE}")
        )

    def read(self, path: str) -> bytes | None:
        oid = self.repository.tree(self.commit, path)
        return None if oid is None else self.repository.blob(oid, lock_format.SIZE_LIMIT)

    def _set_file(self) -> SetFile:
        data = self.read(SET_FILE)
        if data is None:
            raise ManifestError(
                f"the commit {self.commit[:12]} has no `{SET_FILE}`", hint="run `eka init` first"
            )
        return parse_set_file(data, f"{self.commit[:12]}:{SET_FILE}")

    def _manifest(self, path: str) -> bytes | None:
        return self.read(f"{path}/{manifest_format.FILE}".removeprefix("./"))


def select(source: Source, paths: Sequence[str], here: Path) -> list[tuple[str, Member]]:
    """The atoms at `paths` (or with those labels), or all if there are none. Raises UsageError."""
    if not paths:
        chosen = list(source.members.items())
    else:
        chosen = [_find(source, path, here) for path in paths]
    if not chosen:
        raise UsageError("the set has no atoms to publish", hint="make one: `eka new PATH`")
    return chosen


def make_plan(
    source: Source, chosen: Sequence[tuple[str, Member]], remote: str, *, checks: bool = True
) -> Plan:
    """Raises GitError and AtomMismatch for a remote that is not this set."""
    repository = source.repository
    state = check_remote(repository, remote)
    genesis = repository.genesis(source.commit)
    if genesis != state.init:
        raise AtomMismatch(
            f"the remote `{remote}` is the set {state.init}, but this one is {genesis}",
            hint="name the right remote with `--remote`",
        )
    refs = list_refs(remote, repository.root, "refs/eka/*", "refs/ekala/ca/*")
    published = parse_atoms(refs)
    steps = []
    for label, member in chosen:
        there = published.get(label, {})
        step = _step(source, member, genesis, there, remote, checks=checks)
        if step.state == "new":
            step = _with_sources(source, step, refs)
        steps.append(step)
    return Plan(remote, source.commit, genesis, tuple(steps))


def push(plan: Plan, repository: Repository) -> None:
    """All new atoms in one push, or none. Raises GitError; running it again is safe."""
    refs = plan.refs()
    if not refs:
        return
    for ref, oid in refs.items():
        repository.git("update-ref", ref, oid)
    # An empty expectation: the ref must not be there yet.
    leases = [f"--force-with-lease={ref}:" for ref in refs]
    specs = [f"{oid}:{ref}" for ref, oid in refs.items()]
    command = ["push", "--quiet", "--porcelain", "--atomic", *leases, "--"]
    done = try_git(repository.root, *command, plan.remote, *specs)
    if done.returncode and b"does not support --atomic" in done.stderr:
        # Content last: an atom that readers can see is complete.
        ordered = sorted(specs, key=lambda spec: ":refs/eka/atoms/" in spec)
        command.remove("--atomic")
        done = try_git(repository.root, *command, plan.remote, *ordered)
    if done.returncode:
        raise git_error(command, done)


def _find(source: Source, path: str, here: Path) -> tuple[str, Member]:
    if (label := path.removeprefix("::")) in source.members:
        return label, source.members[label]
    root = os.path.realpath(source.repository.root)
    inside = os.path.relpath(os.path.realpath(here / path), root)
    for label, member in source.members.items():
        if member.path == inside:
            return label, member
    known = ", ".join(f"`{member.path}`" for member in source.members.values()) or "none"
    raise UsageError(
        f"`{path}` is no atom of the commit {source.commit[:12]}",
        hint=f"its atoms: {known}; commit new ones before you publish them",
    )


def _step(
    source: Source,
    member: Member,
    genesis: str,
    published: Mapping[Version, str],
    remote: str,
    *,
    checks: bool,
) -> Step:
    repository, package = source.repository, member.package
    tree = repository.tree(source.commit, member.path)
    blob = repository.tree(source.commit, f"{member.path}/{manifest_format.FILE}")
    assert tree is not None  # its manifest was read
    assert blob is not None
    base = Step(
        package.label, package.version, member.path, "new", atom_id(genesis, package.label), None,
        blob,
    )  # fmt: skip
    if (rev := published.get(package.version)) is not None:
        return _against(repository, base, tree, rev, remote)
    try:
        if member.path == ".":
            raise UsageError("an atom cannot be the root of its repository")
        if checks:
            check_publishable(source, member)
    except EkaError as error:
        return base._replace(state="refused", problem=error)
    body = atom_commit_body(tree, source.commit, package.label, str(package.version))
    notes = tuple(_notes(package.version, published))
    return base._replace(rev=repository.write_commit(body), notes=notes)


def _with_sources(source: Source, step: Step, there: Mapping[str, str]) -> Step:
    """Of what the atom's lock names as electrons, what has to be pushed with it."""
    text = source.read(f"{step.path}/{lock_format.FILE}")
    if text is None:
        return step
    try:
        lock = parse_lock(text, f"{step.path}/{lock_format.FILE}")
        found = {}
        for dep in lock.sources():
            if source_ref(dep.tree) not in there:
                if source.repository.ref(f"{dep.tree}^{{tree}}") != dep.tree:
                    raise LockError(
                        f"the source `{dep.name}` of `{step.label}` is no tree of this repository",
                        hint=f"run `eka resolve {step.path}` and commit it",
                    )
                body = source_commit_body(dep.tree)
                found[source_ref(dep.tree)] = source.repository.write_commit(body)
    except LockError as error:
        return step._replace(state="refused", problem=error)
    return step._replace(sources=found)


def _notes(version: Version, published: Mapping[Version, str]) -> Iterator[str]:
    highest = max(published, key=sort_key, default=None)
    if highest is not None and sort_key(version) < sort_key(highest):
        yield f"{highest} is published already, which is higher"


def _against(repository: Repository, step: Step, tree: str, rev: str, remote: str) -> Step:
    """A version that the remote has: the same content is fine, other content is not."""
    name = f"`{step.label}` {step.version}"
    if repository.ref(f"{rev}^{{commit}}") is None:
        content = AtomRefs.of(step.label, step.version).content
        fetch_ref(repository, remote, content, repository.root, depth=None)
    try:
        there = read_atom_commit(repository, rev, f"{name} on `{remote}`")
    except AtomMismatch as error:
        return step._replace(state="refused", rev=rev, problem=error)
    if there.tree == tree:
        return step._replace(state="published", rev=rev)
    problem = AtomMismatch(
        f"{name} is published with other content, {rev[:12]}",
        hint=f"raise the version in `{step.path}/{manifest_format.FILE}`",
    )
    return step._replace(state="refused", rev=rev, problem=problem)


def check_publishable(source: Source, member: Member) -> None:
    """That others can use the atom: valid manifest, a lock that fits it and is all published.

    Raises ManifestError, LockError.
    """
    place = f"{member.path}/{manifest_format.FILE}"
    data = source.read(place)
    assert data is not None  # its package was read
    manifest = parse_manifest(data, place)
    text = source.read(f"{member.path}/{lock_format.FILE}")
    if text is None:
        if isinstance(manifest.compose, ComposeStatic):
            return
        raise LockError(
            f"`{member.path}` has no `{lock_format.FILE}` in the commit",
            hint=f"run `eka resolve {member.path}` and commit it",
        )
    lock = parse_lock(text, f"{member.path}/{lock_format.FILE}")
    stale = next(out_of_step(manifest, lock), None)
    if stale is not None:
        raise LockError(
            f"the lock of `{member.path}` does not fit its manifest: {stale}",
            hint=f"run `eka resolve {member.path}` and commit it",
        )
    composer = (lock.compose.atom,) if isinstance(lock.compose, LockedWith) else ()
    for atom in (*lock.atoms(), *composer):
        if atom.rev is None:
            raise LockError(
                f"`{member.path}` depends on `{atom.label}` of this set, which is not published",
                hint=f"publish `{atom.label}` first, then `eka resolve {member.path}` and commit",
            )


def out_of_step(manifest: Manifest, lock: Lock) -> Iterator[str]:
    """What in a lock does not fit a manifest, as far as that shows without asking anybody."""
    tags = {found.tag: genesis for genesis, found in lock.sets.items()}
    sets = manifest.package.sets
    for tag, mirrors in sets.items():
        if tag not in tags or lock.sets[tags[tag]].mirrors != mirrors:
            yield f"the set `{tag}`"
    for tag in tags.keys() - sets.keys():
        yield f"the set `{tag}`"
    yield from _compose_out_of_step(manifest, lock, tags)
    atoms = {(atom.set, atom.label): atom for atom in lock.atoms()}
    for tag, wanted in manifest.deps.items():
        for label, requirement in wanted.items():
            atom = atoms.pop((tags.get(tag, ""), label), None)
            if atom is None or (atom.rev and not requirement.matches(atom.version)):
                yield f"`{label}` of `{tag}`"
    for atom in atoms.values():
        yield f"`{atom.label}`"
    yield from _direct_out_of_step(manifest, lock)


def _compose_out_of_step(manifest: Manifest, lock: Lock, tags: dict[str, str]) -> Iterator[str]:
    compose, locked = manifest.compose, lock.compose
    if isinstance(compose, ComposeWith):
        fits = (
            isinstance(locked, LockedWith)
            and (locked.atom.set, locked.atom.label) == (tags.get(compose.set_tag), compose.label)
            and locked.entry == compose.entry
            and (not locked.atom.rev or (compose.requirement or ANY).matches(locked.atom.version))
        )
    elif isinstance(compose, ComposeStatic):
        fits = isinstance(locked, LockedStatic)
    else:
        fits = getattr(locked, "entry", None) == compose.entry and not isinstance(
            locked, LockedWith
        )
    if not fits:
        yield "what composes it"


def _direct_out_of_step(manifest: Manifest, lock: Lock) -> Iterator[str]:
    genesis_tags = {genesis: found.tag for genesis, found in lock.sets.items()}
    versions = {(genesis_tags.get(atom.set, ""), atom.label): atom.version for atom in lock.atoms()}
    left = {dep.name: dep for dep in lock.deps if isinstance(dep, (LockedFile, LockedGit))}
    for name, direct in manifest.direct.items():
        if not is_current(direct, concrete_url(direct, versions), left.pop(name, None)):
            yield f"`{name}`"
    for name in left:
        yield f"`{name}`"
    for name in sorted({dep.name for dep in lock.sources()} ^ set(manifest.sources)):
        yield f"the source `{name}`"
