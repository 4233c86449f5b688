"""A local git repository as atoms need it: its genesis, commits, trees and refs.

Everything that is published is read from a commit, never from the work tree. Constraint: shallow
and grafted histories are refused wherever a genesis is wanted: their roots are not the real ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from eka.atom.git import git_error, run_git, try_git
from eka.atom.identity import find_genesis
from eka_runtime.errors import GitError

INIT_REF = "refs/ekala/init"


class Entry(NamedTuple):
    """Of a tree; `path` in bytes, relative to the tree that was asked for."""

    mode: str
    type: str
    oid: str
    path: bytes


class Repository(NamedTuple):
    """`root` is the work tree, or the git directory of a bare repository."""

    root: Path
    git_dir: Path
    bare: bool
    shallow: bool

    @classmethod
    def discover(cls, directory: str | os.PathLike[str]) -> Repository | None:
        """The one around `directory`. Raises GitError for one that git does not trust."""
        if not _may_be_inside(directory):
            return None
        done = try_git(
            directory,
            "rev-parse",
            "--is-bare-repository",
            "--is-shallow-repository",
            "--path-format=absolute",
            "--git-common-dir",
            "--show-toplevel",
        )
        said = done.stdout.decode("utf-8", "surrogateescape").splitlines()
        if b"not a git repository" in done.stderr:
            return None
        # What it said before it found that a bare repository has no top level is right.
        bare = said[:1] == ["true"]
        if done.returncode and not (bare and len(said) == 3):
            raise git_error(["rev-parse"], done)
        git_dir = Path(said[2])
        return cls(git_dir if bare else Path(said[3]), git_dir, bare, said[1] == "true")

    def git(self, *arguments: str, data: bytes | None = None) -> bytes:
        return run_git(self.root, *arguments, data=data)

    def commit(self, revision: str) -> str:
        """The full id of the commit that `revision` names. Raises GitError."""
        done = try_git(
            self.root,
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            revision + "^{commit}",
        )
        if done.returncode:
            hint = "commit something first" if revision == "HEAD" else "see `git log`"
            raise GitError(f"`{revision}` names no commit in `{self.root}`", hint=hint)
        return done.stdout.decode().strip()

    def ref(self, name: str) -> str | None:
        """The object id that a full ref has."""
        done = try_git(self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", name)
        return done.stdout.decode().strip() if done.returncode == 0 else None

    def genesis(self, commit: str) -> str:
        """The root commit that identifies the set, as seen from a revision. Raises GitError."""
        if self.shallow or (self.git_dir / "info/grafts").exists():
            kind = "shallow clone" if self.shallow else "grafted repository"
            raise GitError(
                f"`{self.root}` is a {kind}, so its root commit is not known",
                hint="fetch the whole history: `git fetch --unshallow`",
            )
        return find_root(self.root, commit)

    def tree(self, commit: str, path: str = "") -> str | None:
        """The id of the object at `path` in a commit's tree."""
        return self.ref(f"{commit}:{path}")

    def blob(self, oid: str, limit: int) -> bytes:
        """Raises GitError for one of more than `limit` bytes."""
        size = int(self.git("cat-file", "-s", oid))
        if size > limit:
            raise GitError(f"the object {oid} has more than {limit} bytes")
        return self.git("cat-file", "blob", oid)

    def write_commit(self, body: bytes) -> str:
        """Writes a commit object with exactly this body, and gives its id."""
        data = self.git("hash-object", "-t", "commit", "-w", "--stdin", data=body)
        return data.decode().strip()

    def entries(self, treeish: str) -> Iterator[Entry]:
        """All below a tree, the trees among it too."""
        return parse_entries(self.git("ls-tree", "-r", "-t", "-z", "--full-tree", treeish))


def _may_be_inside(directory: str | os.PathLike[str]) -> bool:
    """Whether git, a process that takes milliseconds, has to be asked: it looks for `.git` upward,
    and for the HEAD of a bare repository."""
    place = Path(os.path.realpath(directory))
    above = (place, *place.parents)
    return any(os.path.lexists(one / name) for one in above for name in (".git", "HEAD"))


def parse_entries(listing: bytes) -> Iterator[Entry]:
    """Of `git ls-tree -z`."""
    for line in listing.split(b"\0"):
        if line:
            head, _, path = line.partition(b"\t")
            mode, kind, oid = head.decode().split(" ")[:3]
            yield Entry(mode, kind, oid, path)


def find_root(directory: str | os.PathLike[str], commit: str) -> str:
    """The genesis as seen from a revision; the walk is only needed where there are several roots.

    Raises GitError, also for what is no commit.
    """
    found = run_git(directory, "rev-list", "--max-parents=0", "--end-of-options", commit, "--")
    roots = found.decode().split()
    if len(roots) == 1:
        return roots[0]
    listing = run_git(
        directory,
        "log",
        "--format=%H %ct %P",
        "--no-show-signature",
        "--end-of-options",
        commit,
        "--",
    )
    times: dict[str, int] = {}
    parents: dict[str, list[str]] = {}
    for line in listing.decode().splitlines():
        own, time, *above = line.split()
        times[own], parents[own] = int(time), above
    return find_genesis(next(iter(times)), times.__getitem__, parents.__getitem__)


def atom_commit_body(tree: str, origin: str, label: str, version: str) -> bytes:
    """Format `pre1`: no parents, no names, no times; no newline at the end of the message."""
    return (
        f"tree {tree}\nauthor  <> 0 +0000\ncommitter  <> 0 +0000\norigin {origin}\nformat pre1\n\n"
        f"publish({label}): {version}"
    ).encode()


def source_commit_body(tree: str) -> bytes:
    """Of an electron: depends on nothing but the tree."""
    return f"tree {tree}\nauthor  <> 0 +0000\ncommitter  <> 0 +0000\n\nsource".encode()


def source_ref(tree: str) -> str:
    """Where the commit of an electron is published."""
    return f"refs/ekala/ca/{tree}"


class AtomRefs(NamedTuple):
    """The three refs of one published version."""

    content: str
    manifest: str
    origin: str

    @classmethod
    def of(cls, label: str, version: object) -> AtomRefs:
        meta = f"refs/eka/meta/{label}/{version}"
        return cls(f"refs/eka/atoms/{label}/{version}", f"{meta}/manifest", f"{meta}/origin")
