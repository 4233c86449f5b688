"""One world per user: root, a user with subordinate ids, one without; or just whoever runs this."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import pytest

from tests.cli.world import World, make_world
from tests.installed import install
from tests.seed import NixClosure, greet_closure
from tests.users import get_user, labels


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter; pytest's own are private to whoever runs it."""
    place = Path(tempfile.mkdtemp(prefix="eka-test-"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        for directory, _, _ in os.walk(place):
            os.chmod(directory, 0o700)
        shutil.rmtree(place)


@pytest.fixture(scope="session")
def eka_bin() -> Iterator[Path]:
    """bin/ of a venv with eka installed from a wheel."""
    with open_directory() as place:
        yield install(place / "venv")


@pytest.fixture(scope="session")
def closure() -> Iterator[NixClosure]:
    with open_directory() as place:
        yield greet_closure(place)


@pytest.fixture(scope="session", params=labels())
def world(request: pytest.FixtureRequest, eka_bin: Path, closure: NixClosure) -> Iterator[World]:
    user = get_user(request.param)
    with open_directory() as place, make_world(user, eka_bin, place, closure) as made:
        yield made


@pytest.fixture
def box(world: World, request: pytest.FixtureRequest) -> Path:
    """A fresh directory for one test, below the world's."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    # Long names begin alike, and other modules have tests of the same name.
    own = blake2b(request.node.nodeid.encode(), digest_size=4).hexdigest()
    return world.directory(f"{name[:51]}-{own}")
