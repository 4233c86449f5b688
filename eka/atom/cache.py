"""Atoms fetched from remotes, in one bare repository that everything of this user shares.

    DIR/git    refs/eka/<genesis>/<label>/<version>    the atom commit

An atom is fetched alone, at depth 1, and taken only if it is the commit that was asked for and says
of itself that it is that atom; then it is never fetched again. Safe across processes (flock); all
of it may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from eka.atom import manifest as manifest_format
from eka.atom.git import GitObject, object_reader, run_git, try_git
from eka.atom.git_url import LOCAL
from eka.atom.lock import LockedAtom, LockedSource
from eka.atom.manifest import Package, parse_package
from eka.atom.mirrors import absolute_place
from eka.atom.repository import AtomRefs, Entry, Repository, source_ref
from eka.atom.toml_file import SIZE_LIMIT
from eka.atom.version import Version
from eka_runtime.errors import AtomMismatch, EkaError, GitError, ManifestError

_HEADERS = re.compile(
    rb"tree (?P<tree>[0-9a-f]{40})\nauthor  <> 0 \+0000\ncommitter  <> 0 \+0000\n"
    rb"(?:origin|src) (?P<origin>[0-9a-f]{40})\n(?:path (?P<path>[^\n]*)\n)?"
    rb"format (?P<format>pre1|pre1\.0|1)\n\n(?P<message>[^\n]*)"
)


class AtomCommit(NamedTuple):
    """What the body of an atom commit says. `format` is pre1, or an older one."""

    tree: str
    origin: str
    format: str
    message: str


class AtomCache:
    """`base` is where relative paths of mirrors start."""

    def __init__(self, cache: Path, base: Path, *, offline: bool = False) -> None:
        self._directory = cache / "git"
        self._lock = cache / "git.lock"
        self._base = base
        self._offline = offline

    def repository(self) -> Repository:
        """Made if it is not there."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not (self._directory / "HEAD").exists():
                run_git(self._directory, "init", "--bare", "--quiet")
        return Repository(self._directory, self._directory, bare=True, shallow=False)

    def fetch(self, atom: LockedAtom, mirrors: Iterable[str] = ()) -> str:
        """The atom commit, from the first place that has it; checked.

        `mirrors` are tried after the one that the lock names. Raises AtomMismatch for what is not
        that atom, GitError, and ResolveError for an atom that was never published.
        """
        if atom.rev is None:
            raise GitError(
                f"`{atom.label}` {atom.version} is of the local set only: it cannot be fetched",
                hint="publish it, then run `eka resolve`",
            )
        repository = self.repository()
        ref = f"refs/eka/{atom.set}/{atom.label}/{atom.version}"
        if repository.ref(ref) == atom.rev:
            return atom.rev
        places = [*([atom.mirror] if atom.mirror else []), *mirrors]
        self._get(repository, [p for p in dict.fromkeys(places) if p != LOCAL], atom)
        check_atom(repository, atom.rev, atom.label, atom.version)
        repository.git("update-ref", ref, atom.rev)
        return atom.rev

    def _get(self, repository: Repository, places: list[str], atom: LockedAtom) -> None:
        failures: list[EkaError] = []
        name = f"`{atom.label}` {atom.version}"
        if self._offline:
            raise GitError(
                f"{name} is not in the cache: offline", hint="run it without `--offline`"
            )
        for place in places:
            try:
                found = fetch_ref(
                    repository, place, AtomRefs.of(atom.label, atom.version).content,
                    self._base, self._locked,
                )  # fmt: skip
            except GitError as error:
                failures.append(error)
                continue
            if found == atom.rev:
                return
            failures.append(
                AtomMismatch(
                    f"{name} is {found} on `{place}`, but {atom.rev} is locked",
                    hint="the publication was moved or tampered with: do not use it",
                )
            )
        if not failures:
            raise GitError(f"nobody is said to have {name}", hint="run `eka resolve --fresh`")
        worst = [error for error in failures if isinstance(error, AtomMismatch)] or failures
        raise worst[0]

    def fetch_source(self, source: LockedSource, mirrors: Iterable[str]) -> str:
        """The tree of an electron, from the first mirror of the atom's set that has it.

        Raises GitError, and AtomMismatch for a place that has another tree under its name.
        """
        repository = self.repository()
        name = f"the source `{source.name}`"
        kept = f"refs/eka/sources/{source.tree}"
        if repository.ref(f"{kept}^{{tree}}") == source.tree:
            return source.tree
        if self._offline:
            raise GitError(
                f"{name} is not in the cache: offline", hint="run it without `--offline`"
            )
        failure: EkaError = GitError(
            f"{name}, the tree {source.tree}, is neither in this repository nor is any mirror of"
            " its set known",
            hint="commit it, then run `eka resolve`; or add a mirror to `[package.sets]`",
        )
        for place in (mirror for mirror in mirrors if mirror != LOCAL):
            try:
                ref = source_ref(source.tree)
                commit = fetch_ref(repository, place, ref, self._base, self._locked)
            except GitError as error:
                failure = error
                continue
            if repository.ref(f"{commit}^{{tree}}") == source.tree:
                repository.git("update-ref", kept, commit)
                return source.tree
            failure = AtomMismatch(
                f"{name} is another tree on `{place}` than {source.tree}, which is locked",
                hint="the publication was tampered with: do not use it",
            )
        raise failure

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # git's own locks (shallow, refs) fail rather than wait.
        with open(self._lock, "a", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def fetch_ref(
    repository: Repository,
    place: str,
    ref: str,
    base: Path,
    locked: Callable[[], AbstractContextManager[None]] = nullcontext,
    *,
    depth: int | None = 1,
    filters: str | None = None,
) -> str:
    """Fetches what `ref` is at `place`, without naming it here; its object id. Raises GitError."""
    limits = [f"--depth={depth}"] if depth else []
    limits += [f"--filter={filters}"] if filters else []
    temporary = f"refs/eka-fetch/{os.getpid()}-{os.urandom(6).hex()}"
    with locked(), _without_after(repository, temporary):
        run_git(
            repository.root, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head",
            "--no-auto-gc", "--no-recurse-submodules", *limits, "--",
            absolute_place(place, base), f"+{ref}:{temporary}",
            config=["protocol.version=2", "transfer.fsckObjects=false"],
        )  # fmt: skip
        found = repository.ref(temporary)
    assert found is not None  # git said that it fetched it
    return found


@contextmanager
def _without_after(repository: Repository, ref: str) -> Iterator[None]:
    try:
        yield
    finally:
        repository.git("update-ref", "-d", ref)


def parse_atom_commit(body: bytes, name: str) -> AtomCommit:
    """`name` is what messages call it. Raises AtomMismatch."""
    match = _HEADERS.fullmatch(body)
    if match is None:
        raise AtomMismatch(
            f"{name} is no atom commit", hint="its publisher did not use eka, or it was forged"
        )
    tree, origin, format_, message = (
        match[key].decode("utf-8", "replace") for key in ("tree", "origin", "format", "message")
    )
    return AtomCommit(tree, origin, format_, message)


def read_atom_commit(repository: Repository, commit: str, name: str) -> AtomCommit:
    done = try_git(repository.root, "cat-file", "commit", commit)
    if done.returncode:
        raise AtomMismatch(f"{name} is not a commit: {commit}")
    return parse_atom_commit(done.stdout, name)


def check_atom(
    repository: Repository, commit: str, label: str, version: Version
) -> tuple[AtomCommit, Package]:
    """That a commit says of itself, and its manifest says, that it is this atom.

    Raises AtomMismatch.
    """
    name = f"`{label}` {version}"
    found = read_atom_commit(repository, commit, name)
    expected = {f"publish({label}): {version}", f"{label}: {version}"}
    if found.message not in expected:
        raise AtomMismatch(f"the commit of {name} says that it is `{found.message}`")
    package = tree_package(repository, commit, name)
    if (package.label, package.version) != (label, version):
        raise AtomMismatch(
            f"the manifest of {name} says that it is `{package.label}` {package.version}"
        )
    return found, package


def tree_package(repository: Repository, treeish: str, name: str) -> Package:
    """`[package]` of the manifest in a tree. Raises AtomMismatch."""
    oid = repository.tree(treeish, manifest_format.FILE)
    if oid is None:
        raise AtomMismatch(f"{name} has no `{manifest_format.FILE}`")
    try:
        return parse_package(repository.blob(oid, SIZE_LIMIT), manifest_format.FILE)
    except (ManifestError, GitError) as error:
        raise AtomMismatch(f"{name}: {error}") from error


def export_tree(repository: Repository, treeish: str, directory: Path) -> None:
    """Writes a tree's files below a new `directory`, byte for byte: no attributes, no filters.

    Each tree and file is hashed, as git does not when it reads them: AtomMismatch for one that is
    not what its id says. Raises GitError; names that could lead elsewhere are refused before
    anything is written.
    """
    entries = list(repository.entries(treeish))
    for entry in entries:
        parts = entry.path.split(b"/")
        if any(part.lower() in (b"", b".", b"..", b".git") for part in parts):
            raise GitError(f"the tree {treeish} has a file {entry.path!r}")
    top = repository.tree(treeish)
    if top is None:
        raise GitError(f"{treeish} is no tree of `{repository.root}`")
    trees = {top, *(entry.oid for entry in entries if entry.type == "tree")}
    # Symbolic links last, so that no file is written through one.
    blobs = [entry for entry in entries if entry.type == "blob"]
    blobs.sort(key=lambda entry: entry.mode == "120000")
    with object_reader(repository.root) as read:
        for oid in sorted(trees):
            deque(_hashed(oid, read(oid)), maxlen=0)
        directory.mkdir(parents=True)
        for entry in blobs:
            _write(directory, entry, _hashed(entry.oid, read(entry.oid)))


def _hashed(oid: str, found: GitObject) -> Iterator[bytes]:
    """The content of an object; AtomMismatch at its end for one that has another id."""
    hasher = hashlib.new("sha1" if len(oid) == 40 else "sha256", usedforsecurity=False)
    hasher.update(f"{found.kind} {found.size}\0".encode())
    for chunk in found.chunks:
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != oid:
        raise AtomMismatch(
            f"the {found.kind} {oid} has another content than its id says",
            hint="the repository is damaged or was tampered with: see `git fsck`",
        )


def _write(directory: Path, entry: Entry, chunks: Iterator[bytes]) -> None:
    place = os.path.join(os.fsencode(directory), entry.path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if entry.mode == "120000":
        os.symlink(b"".join(chunks), place)
        return
    mode = 0o755 if entry.mode == "100755" else 0o644
    with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.writelines(chunks)
