"""Packages by name: store paths, links to them, and good errors for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from eka.packages import PackageRef, links_of, names_atom, resolve_package
from eka_runtime.errors import InvalidStorePath, UsageError

BASE = "/nix/store/00000000000000000000000000000000-name"


def ref(text: str, base: Path) -> PackageRef:
    return PackageRef(text, "-p", base)


def test_a_store_path_is_itself(tmp_path: Path) -> None:
    assert str(resolve_package(ref(BASE, tmp_path))) == BASE


def test_links_are_followed_to_the_store(tmp_path: Path) -> None:
    (tmp_path / "result").symlink_to(BASE)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "again").symlink_to("../result")
    found = ref("./sub/again", tmp_path)
    assert str(resolve_package(found)) == BASE
    assert [Path(link).name for link in links_of(found)] == ["again", "result"]


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UsageError, match="is not a package"):
        resolve_package(ref("./a", tmp_path))


@pytest.mark.parametrize("text", ["gh:owner/repo::label@^1", ".::label", ".#attr"])
def test_atoms_are_recognized(tmp_path: Path, text: str) -> None:
    assert names_atom(ref(text, tmp_path))


def test_directories_are_atoms_by_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert not names_atom(ref("plain", tmp_path))
    for name in ("atom.toml", "default.nix"):
        (tmp_path / name).write_text("")
        assert names_atom(ref(".", tmp_path))
        (tmp_path / name).unlink()
    assert not names_atom(ref(BASE, tmp_path))


@pytest.mark.parametrize("text", ["/nix/store/short-name", BASE + "/bin"])
def test_malformed_store_paths(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidStorePath):
        resolve_package(ref(text, tmp_path))
