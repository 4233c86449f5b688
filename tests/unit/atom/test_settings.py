"""Layers of settings: which file or variable wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from eka.atom.settings import _TABLES, Composer, load_atom_settings
from eka.config import ATOM_TABLES
from eka_runtime.errors import ConfigError
from tests.unit.atom.repos import Repo


def test_later_layers_win_and_tables_are_merged(place: Path) -> None:
    repo = Repo.make(place / "repo")
    (repo.path / "deep").mkdir()
    config = place / "config"
    repo.write({
        "../config/eka.toml": '[uri.aliases]\na = "1"\nb = "1"\nc = "1"\n[other]\nx = 1\n',
        "../config/eka/eka.toml": '[uri.aliases]\nb = "2"\nc = "2"\n[cache]\nroot = "/two"\n',
        ".git/info/eka.toml": '[uri.aliases]\nc = "3"\n[manifest.default.composer.set]\n'
        'tag = "t"\naddress = "::"\n',
    })  # fmt: skip
    environ = {"XDG_CONFIG_HOME": str(config)}
    found = load_atom_settings(environ, repo.path / "deep")
    assert [found.aliases[name] for name in "abc"] == ["1", "2", "3"]
    assert found.aliases["gh"] == "github.com"
    assert found.cache == Path("/two")
    assert found.composer == Composer(tag="t", address="::")
    assert load_atom_settings(environ | {"EKA_CACHE_ROOT": "/three"}, place).cache == Path("/three")
    repo.commit({"f": ""})
    repo.git("worktree", "add", "--quiet", "../tree")
    assert load_atom_settings(environ, place / "tree").aliases["c"] == "3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[uri]\nalias = {}\n", "eka.toml:2:1: unknown key `uri.alias`"),
        ("[cache]\nroot = 1\n", "eka.toml:2:8: `cache.root` must be a string"),
        ("[uri\n", "eka.toml:1:5: not valid TOML"),
    ],
)
def test_wrong_settings_say_where(place: Path, text: str, message: str) -> None:
    Repo(place).write({"config/eka/eka.toml": text})
    with pytest.raises(ConfigError) as caught:
        load_atom_settings({"XDG_CONFIG_HOME": str(place / "config")}, place)
    assert message in str(caught.value)


def test_the_rest_of_the_tool_leaves_these_tables_alone(place: Path) -> None:
    assert set(_TABLES) == set(ATOM_TABLES)
