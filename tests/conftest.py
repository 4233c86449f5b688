"""Fixtures every test may use; what needs a host capability lives in tests/host/conftest.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# A time limit per example would be a timing assertion; a database beside the checkout could not be
# written by another user, and a warning is an error here.
settings.register_profile("eka", database=None, deadline=None)
settings.load_profile("eka")

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The committed golden data (tests/vectors)."""
    return VECTORS
