"""Places that exports are written to: they appear whole, or not at all.

A directory or file is made beside its place and then renamed. Only stdout gets what is ready at
once.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from eka_runtime.errors import UsageError


@contextmanager
def fresh_directory(place: Path) -> Iterator[Path]:
    """A directory that becomes `place` at the end. Raises UsageError where something is."""
    if os.path.lexists(place) and not _is_empty(place):
        raise UsageError(
            f"`{place}` is there already and not an empty directory",
            hint="remove it, or name another",
        )
    try:
        holder = tempfile.mkdtemp(prefix=".eka-export-", dir=place.absolute().parent)
    except OSError as error:
        raise UsageError(f"cannot write `{place}`: {error.strerror}") from error
    try:
        fresh = Path(holder) / "made"
        fresh.mkdir(mode=0o755)
        yield fresh
        os.rename(fresh, place)
    finally:
        _remove(Path(holder))


def _is_empty(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink() and not any(place.iterdir())


def _remove(place: Path) -> None:
    # Directories of store paths are read-only, also for who made them.
    for directory, _, _ in os.walk(place):
        os.chmod(directory, 0o700)
    shutil.rmtree(place)


@contextmanager
def fresh_stream(place: str, *, executable: bool = False) -> Iterator[BinaryIO]:
    """A file that appears at the end, or stdout for `-`. Not buffered."""
    if place == "-":
        if sys.stdout.isatty():
            raise UsageError("this does not go to a terminal", hint="use `-o FILE`")
        sys.stdout.flush()
        with open(1, "wb", buffering=0, closefd=False) as stream:
            yield stream
        return
    final = Path(place)
    if final.is_dir():
        raise UsageError(f"`{place}` is a directory", hint="name a file, or use `--format oci-dir`")
    try:
        fd, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.absolute().parent)
    except OSError as error:
        raise UsageError(f"cannot write `{place}`: {error.strerror}") from error
    try:
        with open(fd, "r+b", buffering=0) as stream:
            yield stream
        os.chmod(name, (0o777 if executable else 0o666) & ~_umask())
        os.rename(name, final)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
