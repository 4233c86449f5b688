"""Recomputes what publications and locks claim, and says what does not hold.

Of a published version: its commit from its parts, its origin's tree and genesis, its manifest. Of a
lock: its ids, that it fits its manifest, every atom on every mirror of its set, every file's hash,
every tag. Constraint: nothing is taken from a cache that could have been filled by whom one checks;
histories are fetched without files where the server can, into a directory that goes afterwards.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from eka.atom import manifest as manifest_format
from eka.atom.cache import parse_atom_commit, tree_package
from eka.atom.git import run_git, try_git
from eka.atom.mirrors import absolute_place
from eka.atom.remote import Listing, list_refs, list_set
from eka.atom.repository import (
    INIT_REF,
    AtomRefs,
    Repository,
    atom_commit_body,
    find_root,
    parse_entries,
)
from eka.atom.version import Version
from eka_runtime.errors import AtomMismatch, EkaError

_HERE = "refs/verified/"


class Finding(NamedTuple):
    """Of one check; `ok` is None where it could not be made, and `message` says why."""

    subject: str
    check: str
    ok: bool | None
    message: str = ""


Report = Callable[[Finding], None]


class Publication(NamedTuple):
    """One version at one place. `rev` is what its ref must be."""

    place: str
    label: str
    version: Version
    rev: str
    genesis: str

    @property
    def name(self) -> str:
        return f"{self.label} {self.version} on {self.place}"


@contextmanager
def scratch() -> Iterator[Repository]:
    """An empty bare repository that goes afterwards."""
    with tempfile.TemporaryDirectory(prefix="eka-verify-") as directory:
        run_git(directory, "init", "--quiet", "--bare")
        yield Repository(Path(directory), Path(directory), bare=True, shallow=False)


def verify_publication(
    repository: Repository, publication: Publication, base: Path, report: Report
) -> None:
    """Every check of one version. Raises GitError if the place does not answer."""
    refs = AtomRefs.of(publication.label, publication.version)
    here = AtomRefs(*(f"{_HERE}{name}" for name in refs))
    there = _fetch(repository, publication.place, refs, here, base)
    check = _Checks(publication.name, report)
    for name, ref in zip(("content", "manifest", "origin"), refs, strict=True):
        check("refs", ref in there, f"`{ref}` is missing on `{publication.place}` ({name})")
    if refs.content not in there:
        return
    rev = repository.ref(here.content)
    check("ref", rev == publication.rev, f"its ref is {rev}, but {publication.rev} was expected")
    _verify_content(repository, publication, here, check)
    if refs.origin in there:
        _verify_origin(repository, publication, here, check, base)


class _Checks:
    def __init__(self, subject: str, report: Report) -> None:
        self._subject = subject
        self._report = report

    def __call__(self, name: str, ok: bool | None, message: str) -> bool:
        self._report(Finding(self._subject, name, ok, "" if ok else message))
        return bool(ok)


def _fetch(
    repository: Repository, place: str, refs: AtomRefs, here: AtomRefs, base: Path
) -> set[str]:
    """The refs that are there, fetched with trees and without history or files."""
    url = absolute_place(place, base)
    found = list_refs(url, None, *refs).keys() & set(refs)
    pairs = [f"+{there}:{local}" for there, local in zip(refs, here, strict=True) if there in found]
    if pairs:
        # The content whole; of the source commit only the trees, since that may be large.
        _get(repository, url, [pair for pair in pairs if "/origin:" not in pair], "--depth=1")
        origin = [pair for pair in pairs if "/origin:" in pair]
        _get(repository, url, origin, "--depth=1", "--filter=blob:none")
    return found


def _get(repository: Repository, url: str, refspecs: list[str], *options: str) -> None:
    if refspecs:
        run_git(
            repository.root, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head",
            "--no-auto-gc", *options, "--", url, *refspecs, config=["protocol.version=2"],
        )  # fmt: skip


def _verify_content(
    repository: Repository, publication: Publication, here: AtomRefs, check: _Checks
) -> None:
    label, version = publication.label, publication.version
    body = try_git(repository.root, "cat-file", "commit", here.content)
    if not check("commit", body.returncode == 0, "its content is no commit"):
        return
    try:
        commit = parse_atom_commit(body.stdout, "it")
    except AtomMismatch as error:
        check("commit", False, str(error))
        return
    if commit.format == "pre1":
        made = atom_commit_body(commit.tree, commit.origin, label, str(version))
        same = made == body.stdout
    else:
        same = commit.message == f"{label}: {version}"
    check("commit", same, f"its commit says that it is `{commit.message}`")
    try:
        package = tree_package(repository, here.content, "it")
        same = (package.label, package.version) == (label, version)
        check("manifest", same, f"its manifest says `{package.label}` {package.version}")
    except AtomMismatch as error:
        check("manifest", False, str(error))
    if (stated := repository.ref(here.manifest)) is not None:
        real = repository.tree(here.content, manifest_format.FILE)
        check("manifest ref", stated == real, f"its manifest ref is {stated}, its manifest {real}")


def _verify_origin(
    repository: Repository, publication: Publication, here: AtomRefs, check: _Checks, base: Path
) -> None:
    body = try_git(repository.root, "cat-file", "commit", here.content)
    origin = repository.ref(here.origin)
    try:
        commit = parse_atom_commit(body.stdout, "it")
    except AtomMismatch:
        return  # said before
    if not check(
        "origin", origin == commit.origin, f"its origin ref is {origin}, its origin {commit.origin}"
    ):
        return
    trees = run_git(repository.root, "ls-tree", "-r", "-d", "-z", "--full-tree", commit.origin)
    paths = [entry.path for entry in parse_entries(trees) if entry.oid == commit.tree]
    check("tree", bool(paths), f"its tree {commit.tree} is not in its origin {commit.origin}")
    url = absolute_place(publication.place, base)
    refspec = f"+{AtomRefs.of(publication.label, publication.version).origin}:{here.origin}"
    if (repository.root / "shallow").exists():
        _get(repository, url, [refspec], "--unshallow", "--filter=tree:0")
    root = find_root(repository.root, commit.origin)
    check(
        "genesis",
        root == publication.genesis,
        f"its origin's history begins at {root}, the set's at {publication.genesis}",
    )


def publications(
    place: str, listing: Listing, label: str, versions: list[Version]
) -> list[Publication]:
    """Of versions that the listing has."""
    return [
        Publication(place, label, version, listing.atoms[label][version], listing.genesis)
        for version in versions
    ]


def verify_set(place: str, base: Path, report: Report) -> Listing | None:
    """That a place is the set it says: its HEAD begins where its init ref is.

    None, and a finding, if the place cannot be asked.
    """
    check = _Checks(place, report)
    try:
        listing = list_set(place, base)
    except EkaError as error:
        check("set", None, str(error))
        return None
    return listing


def verify_genesis(
    repository: Repository, place: str, genesis: str, base: Path, report: Report
) -> None:
    """That the init ref of a place is a commit without parents."""
    check = _Checks(place, report)
    _get(repository, absolute_place(place, base), [f"+{INIT_REF}:{_HERE}init"], "--depth=1")
    body = repository.git("cat-file", "commit", f"{_HERE}init")
    headers = body.partition(b"\n\n")[0].splitlines()
    is_root = not any(line.startswith(b"parent ") for line in headers)
    found = repository.ref(f"{_HERE}init")
    check("init", is_root and found == genesis, f"`{INIT_REF}` is {found}, no root commit")


def remembered(cache: Path, publication: Publication) -> str | None:
    """What this machine fetched as that version once."""
    directory = cache / "git"
    if not (directory / "HEAD").exists():
        return None
    ref = f"refs/eka/{publication.genesis}/{publication.label}/{publication.version}"
    done = try_git(os.fspath(directory), "rev-parse", "--verify", "--quiet", ref)
    return done.stdout.decode().strip() or None
