"""Real Nix at eka's daemon, which gets from a binary cache what its store lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.caches import serving
from tests.daemons import Nix, daemon
from tests.stores import store_dir
from tests.unit.cache.conftest import pristine
from tests.unit.cache.world import KEY, A, B, C
from tests.unit.castore.local import temporary

__all__ = ["pristine", "store_dir"]


def test_nix_realises_what_a_cache_has(
    store_dir: Path, pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EKA_TRUSTED_PUBLIC_KEYS", str(KEY.public))
    with serving(pristine) as server, temporary() as place:
        monkeypatch.setenv("EKA_SUBSTITUTERS", server.url)
        with daemon(store_dir, place) as running:
            nix = Nix(running.url, tmp_path / "home")
            (tmp_path / "home").mkdir()
            plan = nix.run("nix-store", "-r", "--dry-run", str(C))
            assert plan.status == 0
            assert "these 3 paths will be fetched" in plan.err
            assert nix.text("nix-store", "-r", str(C)) == str(C)
            assert nix.text("nix-store", "-qR", str(C)).split() == [str(A), str(B), str(C)]
            assert (running.root / str(B)[1:]).read_bytes() == b"b" * 5_000
