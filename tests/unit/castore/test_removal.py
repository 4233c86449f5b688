from __future__ import annotations

import os
from pathlib import Path

import pytest

from eka_runtime.castore.removal import remove_tree
from tests.requirements import lacking
from tests.stores import public_directory, unprivileged
from tests.unit.castore.deep import deep_tree
from tests.unit.castore.local import temporary
from tests.unit.castore.test_ingest import NASTY
from tests.unit.nix.trees import Dir, File, Link, Tree, directory, to_disk


def _make_canonical(tree: Path) -> None:
    """Read-only, as a checkout is."""
    for place, _, files in os.walk(tree, topdown=False):
        for name in files:
            if not os.path.islink(os.path.join(place, name)):
                os.chmod(os.path.join(place, name), 0o444)
        os.chmod(place, 0o555)


@pytest.mark.parametrize(
    "tree",
    [File(b"x"), Link(b"/etc"), Link(b"nowhere"), Dir(()), NASTY, directory(a=NASTY, b=NASTY)],
    ids=["file", "link", "dangling", "empty", "tree", "trees"],
)
@pytest.mark.parametrize("canonical", [False, True])
def test_trees_of_all_kinds_go(tmp_path: Path, tree: Tree, canonical: bool) -> None:
    path = to_disk(tree, tmp_path / "tree")
    if canonical and path.is_dir() and not path.is_symlink():
        _make_canonical(path)
    remove_tree(path)
    assert os.listdir(tmp_path) == []
    remove_tree(path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = to_disk(directory(file=File(b"x")), tmp_path / "outside")
    outside.chmod(0o555)
    for tree in (Link(os.fsencode(outside)), directory(a=Link(os.fsencode(outside)))):
        remove_tree(to_disk(tree, tmp_path / "tree"))
    assert outside.stat().st_mode & 0o777 == 0o555
    assert os.listdir(tmp_path) == ["outside"]
    assert (outside / "file").read_bytes() == b"x"


def test_other_links_to_a_file_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x")
    (tmp_path / "blob").chmod(0o444)
    (tmp_path / "tree").mkdir()
    os.link(tmp_path / "blob", tmp_path / "tree" / "file")
    _make_canonical(tmp_path / "tree")
    remove_tree(tmp_path / "tree")
    assert (tmp_path / "blob").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "blob").stat().st_nlink == 1


def test_a_very_deep_tree() -> None:
    with temporary() as path:
        with pytest.raises(FileNotFoundError), deep_tree(path / "deep", 4000) as deep:
            remove_tree(deep)
        assert os.listdir(path) == []


def test_a_wide_tree(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / "tree" / f"{number}" / "sub").mkdir(parents=True)
    _make_canonical(tmp_path / "tree")
    remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []


def test_the_owner_needs_no_other_right() -> None:
    with public_directory() as root:
        root.chmod(0o777)
        with unprivileged():
            tree = to_disk(directory(a=directory(b=NASTY), c=File(b"x")), root / "tree")
            _make_canonical(tree)
            remove_tree(tree)
        assert os.listdir(root) == []


def test_what_cannot_be_removed_is_an_error() -> None:
    if os.geteuid() != 0:
        lacking("only root can make what this user cannot remove")
    with public_directory() as root:
        to_disk(directory(a=File(b"x")), root / "tree")
        with unprivileged(), pytest.raises(PermissionError):
            remove_tree(root / "tree")
        assert (root / "tree" / "a").exists()


@pytest.mark.parametrize("survived", range(4))
@pytest.mark.parametrize("backwards", [False, True])
def test_what_an_interrupted_removal_left_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int, backwards: bool
) -> None:
    tree = {name: directory(x=NASTY, y=directory(z=NASTY)) for name in "abcd"}
    to_disk(directory(**tree), tmp_path / "tree")
    real, moves = os.rename, []

    def rename(old: str, new: str) -> None:
        if len(moves) == survived:
            raise KeyboardInterrupt
        moves.append(new)
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        remove_tree(tmp_path / "tree")
    monkeypatch.undo()
    assert len(os.listdir(tmp_path)) == 1 + survived
    for name in sorted(os.listdir(tmp_path), reverse=backwards):
        remove_tree(tmp_path / name)
    assert os.listdir(tmp_path) == []
