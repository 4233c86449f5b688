"""A served store, verified when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores import store, store_dir
from tests.unit.castore.local import temporary
from tests.unit.daemon.client import served

__all__ = ["store", "store_dir"]


@pytest.fixture
def place(store_dir: Path) -> Iterator[Path]:
    """The socket of a server of `store_dir`."""
    with temporary() as directory, served(store_dir, directory / "socket") as socket:
        yield socket
