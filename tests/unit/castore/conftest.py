"""A castore of the test's own, checked to the last byte when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.castore.local import Castore


@pytest.fixture
def castore(tmp_path: Path) -> Iterator[Castore]:
    with Castore.open(tmp_path / "castore") as opened:
        yield opened
        opened.check()


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Castore]:
    """One that the test breaks on purpose."""
    with Castore.open(tmp_path / "castore") as opened:
        yield opened
