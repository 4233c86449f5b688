"""An engine for each kind of user, and eka as a user has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import closure, eka_bin
from tests.containers.engine import Engine, engine_of
from tests.requirements import lacking
from tests.users import get_user, labels

__all__ = ["closure", "eka_bin"]


@pytest.fixture(scope="session", params=labels())
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if not os.path.islink("/bin"):
        lacking("this host's /bin is not in /usr, which containers here are made of")
    with engine_of(get_user(request.param)) as made:
        yield made


@pytest.fixture(scope="session")
def venv(eka_bin: Path) -> Path:
    return eka_bin.parent
