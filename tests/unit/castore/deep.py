"""Trees deeper than a path can be long, which ordinary tools can neither make nor remove."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eka_runtime.castore.descent import Descent

NAME = b"d" * 200


@contextmanager
def deep_tree(path: Path, depth: int, name: bytes = NAME) -> Iterator[Path]:
    """`depth` directories below each other, the first of them `path`, with a file in the last."""
    descent = Descent()
    os.mkdir(path)
    descent.enter(os.fsencode(path))
    for _ in range(depth - 1):
        os.mkdir(name, dir_fd=descent.fd)
        descent.enter(name)
    os.close(os.open(b"file", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=descent.fd))
    descent.close()
    try:
        yield path
    finally:
        remove_deep_tree(path, depth, name)


def remove_deep_tree(path: Path, depth: int, name: bytes = NAME) -> None:
    descent = Descent()
    path.chmod(0o755)
    descent.enter(os.fsencode(path))
    for _ in range(depth - 1):
        os.chmod(name, 0o755, dir_fd=descent.fd)
        descent.enter(name)
    os.unlink(b"file", dir_fd=descent.fd)
    for _ in range(depth - 1):
        descent.leave()
        os.rmdir(name, dir_fd=descent.fd)
    descent.close()
    path.rmdir()
