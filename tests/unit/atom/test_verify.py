"""What is wrong with a publication is found and said: each kind of tampering."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from eka.atom.cache import AtomCache, export_tree
from eka.atom.git import git_environment
from eka.atom.identity import atom_id
from eka.atom.lock import LockedAtom
from eka.atom.remote import list_set
from eka.atom.repository import Repository, atom_commit_body
from eka.atom.verify import Finding, publications, scratch, verify_publication
from eka.atom.version import parse_version
from eka_runtime.errors import AtomMismatch, GitError
from tests.unit.atom.repos import Repo, atom_toml

CONTENT = "refs/eka/atoms/bar/1.1.0"
META = "refs/eka/meta/bar/1.1.0"


def problems(place: Path) -> dict[str, str]:
    """Messages by check of what does not hold of `bar` 1.1.0."""
    found: list[Finding] = []
    listing = list_set("far.git", place)
    (publication,) = publications("far.git", listing, "bar", [parse_version("1.1.0")])
    with scratch() as repository:
        verify_publication(repository, publication, place, found.append)
    return {finding.check: finding.message for finding in found if finding.ok is False}


def test_an_honest_publication_holds(published: Repo, place: Path) -> None:
    assert problems(place) == {}


def write_atom(far: Repo, tree: str, origin: str, version: str = "1.1.0") -> str:
    body = atom_commit_body(tree, origin, "bar", version)
    return far.git("hash-object", "-t", "commit", "-w", "--stdin", data=body)


def changed_tree(far: Repo) -> None:
    """Other content, said to be of the same origin."""
    blob = far.git("hash-object", "-w", "--stdin", data=atom_toml("bar", "1.1.0", "#").encode())
    tree = far.git("mktree", data=f"100644 blob {blob}\tatom.toml\n".encode())
    far.git("update-ref", CONTENT, write_atom(far, tree, far.git("rev-parse", f"{META}/origin")))
    far.git("update-ref", f"{META}/manifest", blob)


def forged_origin(far: Repo) -> None:
    """A history of its own that has the tree."""
    tree = far.git("rev-parse", f"{META}/origin^{{tree}}")
    origin = far.git("commit-tree", tree, "-m", "forged")
    content = far.git("rev-parse", f"{CONTENT}^{{tree}}")
    far.git("update-ref", CONTENT, write_atom(far, content, origin))
    far.git("update-ref", f"{META}/origin", origin)


def other_origin(far: Repo) -> None:
    far.git("update-ref", f"{META}/origin", "HEAD^")


def other_manifest(far: Repo) -> None:
    far.git(
        "update-ref", f"{META}/manifest", far.git("rev-parse", "refs/eka/meta/bar/1.0.0/manifest")
    )


def other_version(far: Repo) -> None:
    far.git("update-ref", CONTENT, "refs/eka/atoms/bar/1.0.0")


def other_commit(far: Repo) -> None:
    far.git("update-ref", CONTENT, "HEAD")


def no_origin(far: Repo) -> None:
    far.git("update-ref", "-d", f"{META}/origin")


@pytest.mark.parametrize(
    ("tamper", "check", "message"),
    [
        (changed_tree, "tree", "is not in its origin"),
        (forged_origin, "genesis", "its origin's history begins at"),
        (other_origin, "origin", "its origin ref is"),
        (other_manifest, "manifest ref", "its manifest ref is"),
        (other_version, "commit", "says that it is `publish(bar): 1.0.0`"),
        (other_commit, "commit", "is no atom commit"),
        (no_origin, "refs", "is missing"),
    ],
)
def test_tampering_is_found(
    published: Repo, place: Path, tamper: Callable[[Repo], None], check: str, message: str
) -> None:
    tamper(Repo(place / "far.git"))
    assert message in problems(place)[check]


def locked(place: Path, version: str = "1.1.0") -> LockedAtom:
    listing = list_set("far.git", place)
    parsed = parse_version(version)
    rev = listing.atoms["bar"][parsed]
    id_ = atom_id(listing.genesis, "bar")
    return LockedAtom("bar", parsed, listing.genesis, rev, "far.git", id_)


def test_atoms_are_fetched_once_and_exactly(published: Repo, place: Path) -> None:
    cache = AtomCache(place / "cache", place)
    atom = locked(place)
    assert cache.fetch(atom) == atom.rev
    (place / "far.git").rename(place / "gone.git")
    assert AtomCache(place / "cache", place, offline=True).fetch(atom) == atom.rev
    export_tree(cache.repository(), atom.rev or "", place / "out")
    assert os.listdir(place / "out") == ["atom.toml"]
    assert (place / "out/atom.toml").read_text() == atom_toml("bar", "1.1.0")


def test_an_atom_comes_from_another_mirror_if_one_is_dead(published: Repo, place: Path) -> None:
    atom = locked(place)
    dead = atom._replace(mirror="dead.git")
    assert AtomCache(place / "cache", place).fetch(dead, ["::", "far.git"]) == atom.rev
    with pytest.raises(GitError):
        AtomCache(place / "cache2", place).fetch(dead)


def test_a_moved_atom_is_not_taken(published: Repo, place: Path) -> None:
    atom = locked(place)
    other_version(Repo(place / "far.git"))
    with pytest.raises(AtomMismatch, match=r"but \w+ is locked"):
        AtomCache(place / "cache", place).fetch(atom)
    moved = locked(place)
    with pytest.raises(AtomMismatch, match="says that it is"):
        AtomCache(place / "cache", place).fetch(moved)


def test_trees_that_lead_elsewhere_are_not_written(published: Repo, place: Path) -> None:
    far = Repo(place / "far.git")
    blob = far.git("hash-object", "-w", "--stdin", data=b"x")
    inner = far.git("mktree", data=f"100644 blob {blob}\tconfig\n".encode())
    tree = far.git("mktree", data=f"040000 tree {inner}\t.GIT\n".encode())
    repository = Repository(far.path, far.path, bare=True, shallow=False)
    with pytest.raises(GitError, match="has a file"):
        export_tree(repository, tree, place / "out")
    assert not (place / "out").exists()
    link = far.git("hash-object", "-w", "--stdin", data=b"/tmp")
    tree = far.git("mktree", data=f"120000 blob {link}\ta\n100755 blob {blob}\tb\n".encode())
    export_tree(repository, tree, place / "out")
    assert os.readlink(place / "out/a") == "/tmp"
    assert os.access(place / "out/b", os.X_OK)


def test_repositories_are_found_bare_or_not(published: Repo, place: Path) -> None:
    far = Repository.discover(place / "far.git")
    assert far == Repository(place / "far.git", place / "far.git", bare=True, shallow=False)
    near = Repository.discover(place / "far/bar")
    assert near == Repository(place / "far", place / "far/.git", bare=False, shallow=False)
    assert Repository.discover(place) is None
    with pytest.raises(GitError):
        Repository.discover(place / "far/.git/refs")


def test_the_settings_of_the_user_stay_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -F mine")
    found = git_environment()
    assert "GIT_DIR" not in found
    assert found["GIT_SSH_COMMAND"] == "ssh -F mine"
    monkeypatch.delenv("GIT_SSH_COMMAND")
    assert "GIT_SSH_COMMAND" not in git_environment()  # it would hide core.sshCommand
