"""A castore of the test's own, checked to the last byte when the test ends."""

from __future__ import annotations

import errno
import os
import threading
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


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who has as many as he may have (`ulimit -u`)."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the same user, whose threads count as well."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
