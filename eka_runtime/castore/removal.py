"""Removing trees of any depth, also read-only ones, as checkouts are."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path


def remove_tree(tree: Path) -> None:
    """Absent is fine. Raises OSError with part of the tree left, some of it beside the root.

    `shutil.rmtree` recurses and wants paths below 4096 bytes: here directories are moved up, beside
    the root, before they are read.
    """
    if not os.path.lexists(tree):
        return
    if not stat.S_ISDIR(os.lstat(tree).st_mode):
        tree.unlink()
        return
    pending, numbers = [os.fspath(tree)], count()
    os.chmod(tree, 0o700)
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
                    pending.append(_moved_up(entry.path, tree, numbers))
                else:
                    os.unlink(entry.path)
        os.rmdir(directory)


def _moved_up(directory: str, tree: Path, numbers: Iterator[int]) -> str:
    while True:
        place = f"{tree}.{next(numbers)}"
        try:
            os.rename(directory, place)
            return place
        except OSError as error:
            # A removal that was killed may have left something of that name.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
