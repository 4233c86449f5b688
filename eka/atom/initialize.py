"""Makes a package set: `ekala.toml`, its first commit, and `refs/ekala/init` on a remote.

Every step looks first, so a second run does only what is missing. Nothing is forced: a remote that
already is another set, and a local ref that says otherwise, are errors.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from eka.atom.git import run_git
from eka.atom.remote import list_refs
from eka.atom.repository import INIT_REF, Repository
from eka.atom.set_file import FILE, FRESH, parse_set_file
from eka.atom.toml_file import SIZE_LIMIT, read_bytes
from eka_runtime.errors import AtomMismatch, GitError, ManifestError, UsageError

MESSAGE = "init: ekala project"


class RemoteState(NamedTuple):
    """`head` is the commit of its HEAD, `genesis` that commit's root, `init` the ref if there."""

    head: str
    genesis: str
    init: str | None


def write_set_file(root: Path) -> bool:
    """Whether it had to; one that is there is checked. Raises ManifestError, UsageError."""
    place = root / FILE
    if place.exists():
        parse_set_file(read_bytes(place, ManifestError, SIZE_LIMIT), os.fspath(place))
        return False
    try:
        root.mkdir(parents=True, exist_ok=True)
        with open(place, "x", encoding="utf-8") as stream:
            stream.write(FRESH)
    except OSError as error:
        raise UsageError(f"cannot write `{place}`: {error.strerror}") from error
    return True


def commit_set_file(repository: Repository) -> str | None:
    """Commits `ekala.toml` alone onto HEAD if that has none; what else is staged stays staged.

    Returns the new commit. Raises GitError.
    """
    head = repository.ref("HEAD^{commit}")
    if head and repository.tree(head, FILE):
        return None
    blob = repository.git("hash-object", "-w", "--", FILE).decode().strip()
    with tempfile.TemporaryDirectory() as place:
        env = {"GIT_INDEX_FILE": os.path.join(place, "index")}
        if head:
            run_git(repository.root, "read-tree", head, env=env)
        cacheinfo = f"100644,{blob},{FILE}"
        run_git(repository.root, "update-index", "--add", "--cacheinfo", cacheinfo, env=env)
        tree = run_git(repository.root, "write-tree", env=env).decode().strip()
    # This commit is the set's identity if it is the first one, and two made by one person in one
    # second would be one set; a random trailer keeps them apart.
    more = ["-p", head] if head else ["-m", f"Entropy: {os.urandom(16).hex()}"]
    commit = repository.git("commit-tree", tree, "-m", MESSAGE, *more).decode().strip()
    repository.git("update-ref", "-m", MESSAGE, "HEAD", commit, head or "")
    repository.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{FILE}")
    return commit


def default_remote(repository: Repository) -> str:
    """Where `git push` would go."""
    done = repository.git(
        "for-each-ref", "--format=%(push:remotename)", _head_ref(repository) or "refs/none"
    )
    named = done.decode().strip()
    return named or _config(repository, "remote.pushDefault") or "origin"


def has_remote(repository: Repository, remote: str) -> bool:
    names = repository.git("remote").decode("utf-8", "surrogateescape").splitlines()
    return remote in names


def has_branches(repository: Repository, remote: str) -> bool:
    """Whether anything was pushed there. Raises GitError."""
    return "HEAD" in list_refs(remote, repository.root, "HEAD")


def remote_state(repository: Repository, remote: str) -> RemoteState:
    """Fetches the history of its HEAD if need be. Raises GitError."""
    refs = list_refs(remote, repository.root, "HEAD", INIT_REF)
    head = refs.get("HEAD")
    if head is None:
        raise GitError(
            f"the remote `{remote}` has no HEAD", hint="push your branch first: `git push`"
        )
    if repository.ref(f"{head}^{{commit}}") is None:
        repository.git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", remote, head)
    return RemoteState(head, repository.genesis(head), refs.get(INIT_REF))


def check_remote(repository: Repository, remote: str) -> RemoteState:
    """That the remote is the set it says. Raises AtomMismatch, GitError."""
    state = remote_state(repository, remote)
    if state.init is None:
        raise GitError(
            f"the remote `{remote}` is not initialized as a package set",
            hint=f"run `eka init --remote {remote}`",
        )
    if state.init != state.genesis:
        raise AtomMismatch(
            f"`{INIT_REF}` of `{remote}` is {state.init}, but its history begins at"
            f" {state.genesis}",
            hint="it is another set, or was tampered with",
        )
    return state


def init_remote(repository: Repository, remote: str) -> bool:
    """Pushes the init ref if it is not there; whether it had to. Raises AtomMismatch, GitError."""
    state = remote_state(repository, remote)
    if state.init is not None:
        check_remote(repository, remote)
    local = repository.ref(INIT_REF)
    if local not in (None, state.genesis):
        raise AtomMismatch(
            f"the local `{INIT_REF}` is {local}, but `{remote}` begins at {state.genesis}",
            hint="it is another set: name the right remote with `--remote`",
        )
    repository.git("update-ref", INIT_REF, state.genesis)
    if state.init is not None:
        return False
    lease = f"--force-with-lease={INIT_REF}:"
    refspec = f"{state.genesis}:{INIT_REF}"
    repository.git("push", "--quiet", lease, "--", remote, refspec)
    return True


def create_repository(directory: Path) -> Repository:
    """Raises GitError."""
    directory.mkdir(parents=True, exist_ok=True)
    run_git(directory, "init", "--quiet")
    repository = Repository.discover(directory)
    assert repository is not None  # it was just made
    return repository


def _head_ref(repository: Repository) -> str:
    return repository.git("rev-parse", "--symbolic-full-name", "HEAD").decode().strip()


def _config(repository: Repository, key: str) -> str:
    return repository.git("config", "--default", "", "--get", key).decode().strip()
