from __future__ import annotations

import os
from pathlib import Path

import pytest

from eka_runtime.castore.descent import Descent
from tests.unit.castore.deep import NAME, deep_tree
from tests.unit.castore.local import temporary


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_deep_tree_needs_few_descriptors() -> None:
    before = _descriptors()
    with temporary() as directory, deep_tree(directory / "deep", 300) as path:
        descent = Descent()
        descent.enter(os.fsencode(path))
        inodes = [os.fstat(descent.fd).st_ino]
        for _ in range(299):
            descent.enter(NAME)
            inodes.append(os.fstat(descent.fd).st_ino)
        assert descent.depth == 300
        assert os.listdir(descent.fd) == ["file"]
        assert _descriptors() - before < 100
        for inode in reversed(inodes):
            assert os.fstat(descent.fd).st_ino == inode
            descent.leave()
        assert _descriptors() == before
        descent.close()


def test_a_tree_that_is_moved_meanwhile_is_noticed(tmp_path: Path) -> None:
    before = _descriptors()
    descent = Descent()
    (tmp_path / "a").mkdir()
    descent.enter(os.fsencode(tmp_path / "a"))
    path = tmp_path / "a"
    for number in range(70):
        path /= f"{number}"
        path.mkdir()
        descent.enter(b"%d" % number)
    (tmp_path / "a" / "0" / "1").rename(tmp_path / "moved")
    for _ in range(68):
        descent.leave()
    with pytest.raises(OSError, match="moved meanwhile"):
        descent.leave()
    descent.close()
    assert _descriptors() == before


def test_symlinks_are_not_entered(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match="Not a directory"):
        Descent().enter(os.fsencode(tmp_path / "link"))
