"""From a directory to its closure: what locks must say, and where things are in the sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eka.evaluate.config import Choices
from eka.evaluate.graph import LocalSet, atom_graph
from eka.evaluate.sources import find_local_set
from eka_runtime.errors import LockError, ManifestError
from eka_runtime.nix.path import StorePath

NO_LOCKER = """version = 1
[sets.0000000000000000000000000000000000000000]
tag = "here"
mirrors = ["::"]
[compose]
use = "nix"
entry = "."
[[deps]]
type = "atom"
label = "b"
version = "1.0.0-local"
set = "0000000000000000000000000000000000000000"
id = "{id}"
"""


class Local:
    """Sources without any network or store."""

    def local_set(self, directory: Path) -> LocalSet:
        return find_local_set(directory)

    def atom(self, locked: object, mirrors: object = ()) -> StorePath:
        raise AssertionError("nothing is published")

    def pin(self, locked: object) -> StorePath:
        raise AssertionError("nothing is pinned")

    def electron(self, locked: object, mirrors: object = ()) -> StorePath:
        raise AssertionError("there is no repository")

    def read(self, path: StorePath, name: str) -> bytes | None:
        raise AssertionError("nothing is stored")


def atom(place: Path, label: str, more: str = "") -> Path:
    (place / label).mkdir()
    (place / label / "atom.toml").write_text(
        f'[package]\nlabel = "{label}"\nversion = "1.0.0"\n'
        f'[package.sets]\nhere = "::"\n[compose.as]\nnix = "."\n{more}'
    )
    return place / label


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Atom a, which depends on b of the same set, and has no lock."""
    (tmp_path / "ekala.toml").write_text('[set]\npackages = ["a", "b"]\n')
    atom(tmp_path, "b", more="[config]\nx = 1\n")
    return atom(tmp_path, "a", more='[deps.from.here]\nb = "*"\n[config]\nx = 2\n')


def lock(place: Path) -> None:
    from eka.atom.identity import NO_GENESIS, atom_id

    (place / "atom.lock").write_text(NO_LOCKER.replace("{id}", atom_id(NO_GENESIS, "b")))


def test_a_lock_is_needed_only_for_what_it_locks(pair: Path) -> None:
    with pytest.raises(LockError, match=r"has no atom\.lock") as refused:
        atom_graph(pair, Choices(), Local())
    assert "eka resolve" in str(refused.value.hint)
    assert atom_graph(pair.parent / "b", Choices(), Local()).places() == [
        (str(pair.parent / "b"), "/eka/atoms/0/b")
    ]


def test_a_request_names_places_of_the_sandbox_only(pair: Path) -> None:
    lock(pair)
    graph = atom_graph(pair, Choices(), Local())
    text = graph.request("plan", 'main."x.y"').decode()
    assert str(pair.parent) not in text
    request = json.loads(text)
    assert request["attr"] == ["main", "x.y"]
    assert request["atoms"]["root"]["deps"]["from"] == {"here": {"b": "local:b"}}
    assert request["atoms"]["local:b"]["root"] == "/eka/atoms/1/b"
    # One configuration for the closure: b declares x, too.
    assert request["atoms"]["local:b"]["config"]["x"] == 2


def test_a_lock_that_lacks_something_is_stale(pair: Path) -> None:
    lock(pair)
    manifest = pair / "atom.toml"
    manifest.write_text(manifest.read_text().replace('b = "*"', 'b = "*"\nc = "*"'))
    with pytest.raises(LockError, match="lacks `here::c`"):
        atom_graph(pair, Choices(), Local())


def test_atoms_may_depend_on_each_other(pair: Path) -> None:
    lock(pair)
    other = pair.parent / "b" / "atom.toml"
    other.write_text(other.read_text() + '[deps.from.here]\nb = "*"\n')
    lock(pair.parent / "b")
    graph = atom_graph(pair, Choices(), Local())
    assert graph.atoms["local:b"].deps.atoms == {"here": {"b": "local:b"}}


def test_no_atom(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"has no atom\.toml"):
        atom_graph(tmp_path, Choices(), Local())
