"""Publishing, bit for bit as upstream does it, and what it refuses."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from eka.atom import initialize, publish
from eka.atom.cache import AtomCache, export_tree, parse_atom_commit
from eka.atom.identity import NO_GENESIS, atom_id
from eka.atom.lock import LockedSource
from eka.atom.repository import AtomRefs, Repository, atom_commit_body
from eka.atom.sets import open_set
from eka.atom.settings import load_atom_settings
from eka.atom.workspace import Workspace
from eka_runtime.errors import AtomMismatch, GitError, LockError, UsageError
from tests.unit.atom.repos import Repo, atom_toml
from tests.unit.atom.vectors import VECTORS

COMMITS = VECTORS["atom_commits"]


def git_object_id(kind: str, body: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(body)}\0".encode() + body).hexdigest()


CURRENT = [case for case in COMMITS["published"] if case["format"] == "pre1"]


@pytest.mark.parametrize("case", CURRENT, ids=lambda c: f"{c['label']}-{c['version']}")
def test_published_commits_are_reproduced(case: dict[str, str]) -> None:
    body = atom_commit_body(case["tree"], case["origin"], case["label"], case["version"])
    assert git_object_id("commit", body) == case["commit"]
    assert parse_atom_commit(body, "x")[:2] == (case["tree"], case["origin"])


def test_refs_are_upstreams() -> None:
    for case in COMMITS["published"]:
        assert AtomRefs.of(case["label"], case["version"])._asdict() == case["refs"]


@pytest.mark.parametrize("case", COMMITS["legacy_examples"], ids=lambda case: case["commit"][:8])
def test_older_formats_can_be_read(case: dict[str, str]) -> None:
    body = case["body"].encode()
    assert git_object_id("commit", body) == case["commit"]
    assert parse_atom_commit(body, "x").tree in case["body"]


def test_the_deterministic_repository(place: Path) -> None:
    vector = COMMITS["deterministic_repo"]
    repo = Repo.make(place / "repo")
    empty = repo.git("hash-object", "-t", "tree", "-w", "--stdin", data=b"")
    root = repo.git("commit-tree", empty, "-m", "root", time=1700000000)
    assert root == vector["root"]["id"]
    repo.git("update-ref", "HEAD", root)
    commit = repo.commit(vector["source"]["files"], "atoms", time=1700000100)
    assert commit == vector["source"]["id"]
    Repo.make(place / "remote.git", bare=True)
    repo.git("remote", "add", "origin", "../remote.git")
    repo.git("push", "--quiet", "origin", "HEAD")
    repository = Repository.discover(repo.path)
    assert repository is not None
    assert initialize.init_remote(repository, "origin")
    assert not initialize.init_remote(repository, "origin")
    source = publish.Source(repository, commit)
    plan = publish.make_plan(
        source, publish.select(source, ["foo"], repo.path), "origin", checks=False
    )
    (step,) = plan.steps
    assert (step.rev, step.id) == (vector["atom_commit"], vector["atom_id"])
    publish.push(plan, repository)
    refs = AtomRefs.of("foo", "0.1.0")
    far = Repo(place / "remote.git")
    assert far.git("rev-parse", *refs, "refs/ekala/init").split() == [
        vector["atom_commit"],
        vector["manifest_blob"],
        commit,
        root,
    ]
    assert far.git("rev-parse", f"{refs.content}^{{tree}}") == vector["atom_tree"]
    assert atom_id(root, "foo") == vector["atom_id"]
    far.git("fsck", "--strict")


def plan_of(repo: Repo, *, checks: bool = False) -> publish.Plan:
    repository = Repository.discover(repo.path)
    assert repository is not None
    source = publish.Source(repository, repository.commit("HEAD"))
    return publish.make_plan(source, publish.select(source, [], repo.path), "origin", checks=checks)


def test_what_is_there_is_not_published_again(published: Repo) -> None:
    published.commit({"README": "unrelated"})
    assert [step.state for step in plan_of(published).steps] == ["published"]


def test_other_content_under_a_published_version_is_refused(published: Repo) -> None:
    published.commit({"bar/default.nix": "1"})
    (step,) = plan_of(published).steps
    assert step.state == "refused"
    assert "published with other content" in str(step.problem)


def test_an_interrupted_publication_can_be_repeated(published: Repo) -> None:
    published.commit({"bar/atom.toml": atom_toml("bar", "2.0.0")})
    first = plan_of(published)
    for ref, oid in first.refs().items():
        published.git("update-ref", ref, oid)  # as if the push had failed
    published.commit({"README": "meanwhile"})
    plan = plan_of(published)
    repository = Repository.discover(published.path)
    assert repository is not None
    publish.push(plan, repository)
    assert [step.state for step in plan_of(published).steps] == ["published"]


def test_two_publishers_do_not_overwrite_one_another(published: Repo, place: Path) -> None:
    published.commit({"bar/atom.toml": atom_toml("bar", "2.0.0")})
    plan = plan_of(published)
    other = published.commit({"README": "x"})
    Repo(place / "far.git").git("fetch", "--quiet", "../far", other)
    Repo(place / "far.git").git("update-ref", "refs/eka/atoms/bar/2.0.0", other)
    repository = Repository.discover(published.path)
    assert repository is not None
    with pytest.raises(GitError, match="push"):
        publish.push(plan, repository)
    assert Repo(place / "far.git").git("for-each-ref", "refs/eka/meta/bar/2.0.0") == ""


def test_a_lower_version_is_remarked_on(published: Repo) -> None:
    published.commit({"bar/atom.toml": atom_toml("bar", "0.9.0")})
    (step,) = plan_of(published).steps
    assert step.notes == ("1.1.0 is published already, which is higher",)


def test_atoms_that_nobody_could_use_are_refused(published: Repo) -> None:
    sets = '[package.sets]\nhere = "::"\n'
    published.commit({"bar/atom.toml": atom_toml("bar", "2.0.0")})
    (step,) = plan_of(published, checks=True).steps
    assert isinstance(step.problem, LockError)
    assert "has no `atom.lock`" in str(step.problem)
    published.commit(
        {"bar/atom.toml": atom_toml("bar", "2.0.0", '[deps.from.here]\nx="1"\n', sets)}
    )
    published.commit({"bar/atom.lock": 'version = 1\n[compose]\nuse = "nix"\nentry = "."\n'})
    (step,) = plan_of(published, checks=True).steps
    assert "has no `locker`" in str(step.problem)


def test_the_work_tree_does_not_matter(published: Repo) -> None:
    published.write({"bar/atom.toml": atom_toml("other", "9.9.9")})
    (step,) = plan_of(published).steps
    assert (step.label, step.state) == ("bar", "published")


def test_a_foreign_remote_is_refused(published: Repo, place: Path) -> None:
    foreign = Repo.make(place / "foreign")
    foreign.commit({"x": "1"}, time=1600000000)
    foreign.git("update-ref", "refs/ekala/init", "HEAD")
    published.git("remote", "set-url", "origin", "../foreign")
    with pytest.raises(AtomMismatch, match="is the set"):
        plan_of(published)
    foreign.git("commit", "--quiet", "--allow-empty", "-m", "later")
    foreign.git("update-ref", "refs/ekala/init", "HEAD")
    with pytest.raises(AtomMismatch, match="its history begins at"):
        plan_of(published)


def test_git_is_not_asked_where_it_has_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "plain").mkdir()
    bare = Repo.make(place / "bare.git", bare=True)
    monkeypatch.setenv("PATH", os.fspath(place))  # where there is no git
    assert Repository.discover(place / "plain") is None
    with pytest.raises(GitError, match="not installed"):
        Repository.discover(bare.path / "refs")


def test_a_genesis_needs_a_commit(place: Path) -> None:
    repo = Repo(place)
    repo.git("init", "--quiet")
    repo.write({"ekala.toml": "[set]\npackages = []\n"})
    local = open_set(place)
    assert local.genesis_or_none() == NO_GENESIS
    with pytest.raises(GitError, match="names no commit"):
        local.genesis()
    assert repo.commit({}) == local.genesis() == local.genesis_or_none()


def test_shallow_clones_are_refused(published: Repo, place: Path) -> None:
    Repo(place).git("clone", "--quiet", "--depth=1", f"file://{place}/far.git", "shallow")
    repository = Repository.discover(place / "shallow")
    assert repository is not None
    with pytest.raises(GitError, match="shallow clone"):
        repository.genesis(repository.commit("HEAD"))


def test_what_is_not_in_the_commit_cannot_be_selected(published: Repo) -> None:
    repository = Repository.discover(published.path)
    assert repository is not None
    source = publish.Source(repository, repository.commit("HEAD"))
    with pytest.raises(UsageError, match="is no atom of the commit"):
        publish.select(source, ["baz"], published.path)


def test_sets_made_in_one_second_are_two(place: Path) -> None:
    roots = set()
    for name in ("a", "b"):
        repository = initialize.create_repository(place / name)
        initialize.write_set_file(place / name)
        commit = initialize.commit_set_file(repository)
        assert Repo(place / name).git("log", "-1", "--format=%s") == "init: ekala project"
        roots.add(commit)
    assert len(roots) == 2


def test_sources_are_published_with_the_atom_that_needs_them(published: Repo, place: Path) -> None:
    more = '[build]\nsources = ["code"]\n'
    published.write({"ekala.toml": '[set]\npackages = ["bar"]\n[build.sources]\ncode = "src"\n'})
    published.commit(
        {"src/main.c": "int main;\n", "bar/atom.toml": atom_toml("bar", "2.0.0", more)}
    )
    local = open_set(published.path)
    workspace = Workspace(local, load_atom_settings(os.environ, place), print)
    result = workspace.resolve(published.path / "bar")
    workspace.write(result)
    (source,) = result.lock.deps
    assert isinstance(source, LockedSource)
    assert source.tree == published.git("rev-parse", "HEAD:src")
    published.commit({})
    repository = Repository.discover(published.path)
    assert repository is not None
    publish.push(plan_of(published, checks=True), repository)
    published.commit({"bar/atom.toml": atom_toml("bar", "2.1.0", more)})
    publish.push(plan_of(published, checks=True), repository)
    cache = AtomCache(place / "cache", place)
    assert cache.fetch_source(source, ["::", "gone.git", "far.git"]) == source.tree
    assert AtomCache(place / "cache", place, offline=True).fetch_source(source, []) == source.tree
    export_tree(cache.repository(), source.tree, place / "out")
    assert (place / "out/main.c").read_text() == "int main;\n"
    with pytest.raises(GitError, match="refs/ekala/ca"):
        cache.fetch_source(LockedSource("x", "0" * 40), ["far.git"])
