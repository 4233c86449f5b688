"""Sockets have short names only: not below pytest's directories, which are long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.castore.local import temporary


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary() as path:
        yield path
