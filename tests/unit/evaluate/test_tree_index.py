"""A digest of a directory changes with everything that an evaluation can see of it."""

from __future__ import annotations

import marshal
import os
from pathlib import Path

import pytest

from eka.evaluate.tree_index import scan


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    place = tmp_path / "tree"
    (place / "sub").mkdir(parents=True)
    (place / "a.nix").write_text("1")
    (place / "sub" / "b.nix").write_text("2")
    (place / "link").symlink_to("a.nix")
    return place


def test_every_change_is_another_digest(tree: Path) -> None:
    seen = {scan(tree).digest}

    def changed() -> None:
        digest = scan(tree).digest
        assert digest not in seen
        assert scan(tree).digest == digest
        seen.add(digest)

    (tree / "a.nix").write_text("3")
    changed()
    (tree / "sub" / "c.nix").write_text("2")
    changed()
    (tree / "sub" / "c.nix").rename(tree / "c.nix")
    changed()
    (tree / "a.nix").chmod(0o755)
    changed()
    (tree / "link").unlink()
    (tree / "link").symlink_to("c.nix")
    changed()
    (tree / "empty").mkdir()
    changed()


def test_a_change_that_leaves_size_and_mtime_is_seen(tree: Path) -> None:
    file = tree / "a.nix"
    before, status = scan(tree).digest, file.stat()
    file.write_text("4")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert scan(tree).digest != before


def test_where_it_lies_and_git_do_not_count(tree: Path) -> None:
    before = scan(tree).digest
    (tree / ".git").mkdir()
    (tree / ".git" / "HEAD").write_text("x")
    assert scan(tree).digest == before
    moved = tree.with_name("moved")
    tree.rename(moved)
    assert scan(moved).digest == before
    (moved / "sub" / ".git").mkdir()
    assert scan(moved).digest != before


def test_an_index_is_believed_and_a_damaged_one_is_no_harm(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the files were a second old by now.
    monkeypatch.setattr("eka.evaluate.tree_index.TICK_NS", -(10**9))
    before = scan(tree).digest
    (index,) = (tmp_path / "cache" / "eka" / "index").iterdir()
    name, entries = marshal.loads(index.read_bytes())
    index.write_bytes(
        marshal.dumps((name, {k: (stamp, b"another") for k, (stamp, _) in entries.items()}))
    )
    assert scan(tree).digest != before
    index.write_bytes(b"nonsense")
    assert scan(tree).digest == before


def test_an_index_that_is_used_is_not_old(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the files had been written long before: a change time cannot be set.
    monkeypatch.setattr("eka.evaluate.tree_index.TICK_NS", -(10**9))
    scan(tree)
    (index,) = (tmp_path / "cache/eka/index").iterdir()
    os.utime(index, (1, 1))
    scan(tree)
    assert index.stat().st_mtime > 1
