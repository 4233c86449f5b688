from __future__ import annotations

import os
import pty
import termios
import tty
from collections.abc import Iterator

import pytest

from eka_runtime.runtime.console import raw_modes


@pytest.fixture
def terminal() -> Iterator[int]:
    master, slave = pty.openpty()
    yield slave
    os.close(slave)
    os.close(master)


def test_raw_means_what_everyone_means_by_it(terminal: int) -> None:
    before = termios.tcgetattr(terminal)
    wanted = raw_modes(termios.tcgetattr(terminal))
    tty.setraw(terminal)
    assert wanted == termios.tcgetattr(terminal)
    assert wanted != before
