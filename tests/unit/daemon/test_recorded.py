"""What real clients and daemons said to each other reads and writes back byte for byte."""

from __future__ import annotations

import pytest

from eka_runtime.daemon.protocol import Op
from tests.unit.daemon.recorded import decode, encode, recordings


@pytest.mark.parametrize("folder", ["c2.8-d2.8", "c2.26-d2.26", "ssh-2.8", "ssh-2.26"])
def test_recordings_come_back_byte_for_byte(folder: str) -> None:
    names = [name for name in recordings() if name.startswith(f"{folder}/")]
    assert names
    for name in names:
        assert encode(decode(recordings()[name])) == recordings()[name], name


def test_they_have_most_operations() -> None:
    seen = {one.op for sides in recordings().values() for one in decode(sides).exchanges}
    assert len(seen) > 20
    assert seen > {Op.BuildPaths, Op.NarFromPath, Op.AddMultipleToStore, Op.CollectGarbage}
