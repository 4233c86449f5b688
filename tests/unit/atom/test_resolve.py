"""Resolving against real repositories: mirrors, local sets, what stays and what is looked up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eka.atom.git import bounded_git
from eka.atom.lock import LockedAtom, LockedGit, LockedWith, parse_lock
from eka.atom.lock_text import lock_text
from eka.atom.sets import open_set
from eka.atom.settings import load_atom_settings
from eka.atom.workspace import Result, Workspace
from eka_runtime.errors import EkaError, GitError, ManifestError, ResolveError
from tests.unit.atom.repos import Repo, atom_toml


class World:
    """A set with the atom `foo`, which depends on what a test says."""

    def __init__(self, place: Path) -> None:
        self.repo = Repo.make(place / "here")
        self.foo = self.repo.path / "foo"
        self.warnings: list[str] = []
        self.repo.write({"ekala.toml": '[set]\npackages = ["foo", "bar"]\n'})

    def manifest(self, sets: str, deps: str, version: str = "0.1.0") -> None:
        self.repo.commit({
            "foo/atom.toml": atom_toml("foo", "0.1.0", deps, f"[package.sets]\n{sets}\n"),
            "bar/atom.toml": atom_toml("bar", version),
        })  # fmt: skip

    def resolve(self, *, offline: bool = False, fresh: bool = False) -> Result:
        settings = load_atom_settings(os.environ, self.repo.path)
        local = open_set(self.foo)
        workspace = Workspace(local, settings, self.warnings.append, offline=offline)
        result = workspace.resolve(self.foo, fresh=fresh)
        workspace.write(result)
        assert lock_text(parse_lock((self.foo / "atom.lock").read_bytes())) == result.text
        return result

    def atom(self, **how: bool) -> LockedAtom:
        (atom,) = self.resolve(**how).lock.atoms()
        return atom


@pytest.fixture
def world(place: Path) -> World:
    return World(place)


DEP = '[deps.from.far]\nbar = "{}"\n'


def test_the_highest_version_is_locked_and_stays(published: Repo, world: World) -> None:
    world.manifest('far = "../far.git"', DEP.format("^1"))
    atom = world.atom()
    far = Repo(published.path.parent / "far.git")
    assert str(atom.version) == "1.1.0"
    assert atom.rev == far.git("rev-parse", "refs/eka/atoms/bar/1.1.0")
    assert atom.mirror == "../far.git"
    far.git("update-ref", "refs/eka/atoms/bar/1.2.0", "refs/eka/atoms/bar/1.1.0")
    assert not world.resolve(offline=True).changed
    assert not world.resolve().changed
    assert str(world.atom(fresh=True).version) == "1.2.0"


def test_what_no_longer_fits_is_looked_up(published: Repo, world: World) -> None:
    world.manifest('far = "../far.git"', DEP.format("^1"))
    world.resolve()
    world.manifest('far = "../far.git"', DEP.format("=1.0.0"))
    with pytest.raises(GitError, match="offline"):
        world.resolve(offline=True)
    assert str(world.atom().version) == "1.0.0"
    world.manifest('far = "../far.git"', DEP.format("^2"))
    with pytest.raises(ResolveError, match=r"no version of `bar` of `far` matches `\^2`"):
        world.resolve()
    world.manifest('far = "../far.git"', '[deps.from.far]\nbaz = "*"\n')
    with pytest.raises(ResolveError, match="has no atom `baz`") as caught:
        world.resolve()
    assert caught.value.hint == "it has `bar`"


def test_a_dead_mirror_is_only_a_warning(published: Repo, world: World) -> None:
    world.manifest('far = ["../gone.git", "../far.git"]', DEP.format("*"))
    assert world.atom().mirror == "../far.git"
    assert len(world.warnings) == 1
    assert "mirror of `far`" in world.warnings[0]
    world.manifest('far = ["../gone.git", "../gone2.git"]', DEP.format("*"))
    with pytest.raises(ResolveError, match="no mirror of `far` answers"):
        world.resolve()


def test_mirrors_that_disagree_lock_nothing(published: Repo, world: World) -> None:
    place = published.path.parent
    Repo(place).git("clone", "--quiet", "--mirror", "far.git", "lie.git")
    world.manifest('far = ["../far.git", "../lie.git"]', DEP.format("*"))
    assert world.atom().mirror == "../far.git"
    lie = Repo(place / "lie.git")
    lie.git("update-ref", "refs/eka/atoms/bar/1.0.0", "refs/eka/atoms/bar/1.1.0")
    before = (world.foo / "atom.lock").read_bytes()
    with pytest.raises(ResolveError, match=r"`bar` 1\.0\.0 of `far` is \w+ on `\.\./far\.git` and"):
        world.resolve(fresh=True)
    lie.git("update-ref", "refs/ekala/init", "refs/eka/atoms/bar/1.1.0")
    with pytest.raises(ResolveError, match="are different sets"):
        world.resolve(fresh=True)
    assert (world.foo / "atom.lock").read_bytes() == before


def test_one_set_has_one_tag(published: Repo, world: World) -> None:
    world.manifest('far = "../far.git"\nnear = "../far"', DEP.format("*"))
    published.git(
        "update-ref", "refs/ekala/init", published.git("rev-list", "--max-parents=0", "HEAD")
    )
    with pytest.raises(ResolveError, match="`far` and `near` are one set"):
        world.resolve()


def test_a_local_atom_is_no_substitute_for_a_remote_one(published: Repo, world: World) -> None:
    published.git(
        "push", "--quiet", "origin", ":refs/eka/atoms/bar/1.0.0", ":refs/eka/atoms/bar/1.1.0"
    )
    world.manifest('far = "../far.git"', DEP.format("*"))
    with pytest.raises(ResolveError, match="has no atom `bar`"):
        world.resolve()
    world.manifest('far = "::"', DEP.format("^0.1"))
    atom = world.atom()
    assert (str(atom.version), atom.rev, atom.mirror) == ("0.1.0-local", None, None)
    assert atom.set == world.repo.git("rev-list", "--max-parents=0", "HEAD")


def test_a_local_atom_must_have_a_version_that_fits(world: World) -> None:
    world.manifest('here = "::"', '[deps.from.here]\nbar = "^2"\n')
    with pytest.raises(ResolveError, match=r"matches `\^2`") as caught:
        world.resolve()
    assert caught.value.hint == "its versions: 0.1.0"
    world.manifest('here = "::"', '[deps.from.here]\nbar = "^2"\n', "2.3.0")
    assert str(world.atom().version) == "2.3.0-local"


def test_a_set_that_is_not_here_is_not_local(published: Repo, world: World) -> None:
    world.manifest('far = ["::", "../far.git"]', DEP.format("*"))
    with pytest.raises(ResolveError, match="are different sets"):
        world.resolve()


def test_without_git_sets_have_no_genesis(place: Path) -> None:
    files = {"ekala.toml": '[set]\npackages = ["foo", "bar"]\n', "bar/atom.toml": atom_toml("bar")}
    sets = '[package.sets]\nhere = "::"\n'
    files["foo/atom.toml"] = atom_toml("foo", more='[deps.from.here]\nbar = "*"\n', sets=sets)
    Repo(place / "plain").write(files)
    workspace = Workspace(open_set(place / "plain"), load_atom_settings(os.environ, place), print)
    (atom,) = workspace.resolve(place / "plain/foo").lock.atoms()
    assert atom.set == "0" * 40


def test_two_atoms_with_one_label_are_no_set(place: Path) -> None:
    Repo(place / "plain").write({
        "ekala.toml": '[set]\npackages = ["a", "b"]\n',
        "a/atom.toml": atom_toml("same"),
        "b/atom.toml": atom_toml("same"),
    })  # fmt: skip
    with pytest.raises(ManifestError, match="`a` and `b` both have the label `same`"):
        open_set(place / "plain")


def test_members_that_cannot_be_read_are_left_out(place: Path) -> None:
    Repo(place / "plain").write({
        "ekala.toml": '[set]\npackages = ["a", "gone", "bad"]\n',
        "a/atom.toml": atom_toml("a"),
        "bad/atom.toml": "[package]\n",
    })  # fmt: skip
    local = open_set(place / "plain")
    assert set(local.members) == {"a"}
    assert len(local.unreadable) == 2


def test_errors_leave_both_files_as_they_were(world: World) -> None:
    world.manifest('here = "::"', '[deps.from.here]\nbar = "*"\n')
    world.resolve()
    before = (world.foo / "atom.lock").read_bytes()
    (world.foo / "atom.toml").write_text(atom_toml("foo", more="[deps.from.nowhere]\n"))
    with pytest.raises(EkaError, match="`nowhere` is no set"):
        world.resolve()
    assert (world.foo / "atom.lock").read_bytes() == before


def test_a_thousand_refs_are_one_listing(published: Repo, world: World) -> None:
    far = Repo(published.path.parent / "far.git")
    rev = far.git("rev-parse", "refs/eka/atoms/bar/1.1.0")
    creates = "".join(f"create refs/eka/atoms/bar/2.{n}.0 {rev}\n" for n in range(1000))
    far.git("update-ref", "--stdin", data=creates.encode())
    world.manifest('far = "../far.git"', DEP.format("*"))
    trace = published.path.parent / "trace"
    os.environ["GIT_TRACE"] = os.fspath(trace)
    try:
        assert str(world.atom().version) == "2.999.0"
    finally:
        del os.environ["GIT_TRACE"]
    assert trace.read_text("utf-8", "replace").count("built-in: git upload-pack") == 1


def test_the_composer_stays_until_it_is_looked_up(published: Repo, world: World) -> None:
    text = atom_toml("foo", sets='[package.sets]\nfar = "../far.git"\n')
    text = text.replace(
        '[compose.as]\nnix = "."', '[compose.with.bar]\nfrom = "far"\nentry = "src"'
    )
    world.repo.commit({"foo/atom.toml": text, "bar/atom.toml": atom_toml("bar")})

    def composer(**how: bool) -> str:
        compose = world.resolve(**how).lock.compose
        assert isinstance(compose, LockedWith)
        assert compose.entry == "src"
        return str(compose.atom.version)

    assert composer() == "1.1.0"
    far = Repo(published.path.parent / "far.git")
    far.git("update-ref", "refs/eka/atoms/bar/1.2.0", "refs/eka/atoms/bar/1.1.0")
    assert composer() == "1.1.0"
    world.repo.commit({"foo/atom.toml": text.replace('"src"', '"src"\nversion = "=1.0.0"')})
    assert composer() == "1.0.0"
    assert composer(fresh=True) == "1.0.0"
    world.repo.commit({"foo/atom.toml": text})
    assert composer(fresh=True) == "1.2.0"


def test_a_change_of_a_git_ref_is_noticed(published: Repo, world: World) -> None:
    def rev(ref: str) -> str:
        git = f'[deps.direct.nix]\nx = {{ git = "../far", ref = "{ref}" }}\n'
        world.repo.commit(
            {"foo/atom.toml": atom_toml("foo", more=git), "bar/atom.toml": atom_toml("bar")}
        )
        (dep,) = world.resolve().lock.deps
        assert isinstance(dep, LockedGit)
        return dep.rev

    head = published.git("rev-parse", "HEAD")
    published.git("tag", "old", "HEAD^")
    assert rev("main") == head
    later = published.commit({"f": "1"})
    assert rev("main") == head
    assert rev("old") == published.git("rev-parse", "old")
    assert rev("main") == later


def test_an_atom_of_this_set_is_taken_from_the_remote_once_published(
    published: Repo, place: Path
) -> None:
    sets = '[package.sets]\nfar = ["::", "../far.git"]\n'
    published.write({"ekala.toml": '[set]\npackages = ["bar", "foo"]\n'})
    foo = atom_toml("foo", more='[deps.from.far]\nbar = "^3"\n', sets=sets)
    published.commit({"foo/atom.toml": foo, "bar/atom.toml": atom_toml("bar", "3.0.0")})

    def version(**how: bool) -> str:
        settings = load_atom_settings(os.environ, place)
        workspace = Workspace(open_set(published.path), settings, print, **how)
        result = workspace.resolve(published.path / "foo")
        workspace.write(result)
        (atom,) = result.lock.atoms()
        return str(atom.version)

    assert version() == "3.0.0-local"
    assert version(offline=True) == "3.0.0-local"
    published.git("push", "--quiet", "origin", "refs/eka/atoms/bar/1.1.0:refs/eka/atoms/bar/3.0.0")
    assert version(offline=True) == "3.0.0-local"
    assert version() == "3.0.0"


def test_a_listing_without_end_is_refused(published: Repo, place: Path) -> None:
    with pytest.raises(GitError, match="gives more than 100 bytes"):
        bounded_git("ls-remote", "--", "far.git", directory=place, limit=100)
    with pytest.raises(GitError, match="not appear to be a git repository"):
        bounded_git("ls-remote", "--", "none.git", directory=place, limit=100)
