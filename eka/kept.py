"""Small files that the cache keeps: published whole, touched when they are of use.

A cache that cannot be written is no reason to fail, and one that can only be read is still read.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def publish(target: Path, data: bytes) -> bool:
    """Atomically, mode 0600, in a directory of mode 0700; whether it could be done."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(data)
        os.rename(fresh, target)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        return False
    return True


def touch(file: Path) -> None:
    """So that whoever tidies the cache sees that it is of use."""
    with suppress(OSError):
        os.utime(file)
