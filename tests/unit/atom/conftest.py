from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import require
from tests.unit.atom.repos import Repo, atom_toml, git_settings


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for repositories, with git's settings of the tests."""
    require("git")
    with git_settings(tmp_path):
        yield tmp_path


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `published` copies: publishing takes longer than most tests."""
    require("git")
    made = tmp_path_factory.mktemp("published")
    with git_settings(made):
        _publish(made)
    return made


@pytest.fixture
def published(place: Path, template: Path) -> Repo:
    """A work tree whose `origin` is an initialized set, with the atom `bar` 1.0.0 and 1.1.0."""
    for name in ("far", "far.git"):
        shutil.copytree(template / name, place / name, symlinks=True)
    return Repo(place / "far")


def _publish(place: Path) -> None:
    from eka.atom import initialize, publish
    from eka.atom.repository import Repository

    Repo.make(place / "far.git", bare=True)
    repo = Repo.make(place / "far")
    repo.git("remote", "add", "origin", "../far.git")
    repository = Repository.discover(repo.path)
    assert repository is not None
    initialize.write_set_file(repo.path)
    initialize.commit_set_file(repository)
    repo.git("push", "--quiet", "origin", "HEAD")
    initialize.init_remote(repository, "origin")
    repo.write({"ekala.toml": '[set]\npackages = ["bar"]\n'})
    for version in ("1.0.0", "1.1.0"):
        commit = repo.commit({"bar/atom.toml": atom_toml("bar", version)})
        source = publish.Source(repository, commit)
        chosen = publish.select(source, [], repo.path)
        publish.push(publish.make_plan(source, chosen, "origin", checks=False), repository)
    repo.git("push", "--quiet", "origin", "HEAD")
