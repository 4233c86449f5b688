"""The server beside a run, where it cannot be had."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from eka.beside import served
from eka_runtime.store.store import Store


def test_without_a_process_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with Store.open(tmp_path / "store") as store:
        monkeypatch.setattr(os, "fork", fork)
        with pytest.raises(OSError, match="temporarily"):
            served(store.layout, print)
        assert os.listdir(store.layout.tmp) == []
