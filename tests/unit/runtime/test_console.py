from __future__ import annotations

import ctypes
import os
import pty
import termios
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
    # Not tty.setraw, which since Python 3.13 clears more.
    libc, modes = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    assert libc.tcgetattr(terminal, modes) == 0
    libc.cfmakeraw(modes)
    assert libc.tcsetattr(terminal, termios.TCSANOW, modes) == 0
    assert wanted == termios.tcgetattr(terminal)
    assert wanted != before
