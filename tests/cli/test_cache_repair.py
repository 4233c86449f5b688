"""`eka store verify --repair` with a binary cache: by digests, so no signature is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eka.cli import cli
from eka_runtime.store.store import Store
from tests.caches import serving
from tests.stores import assert_clean, problems
from tests.unit.cache.conftest import pristine
from tests.unit.cache.world import A, fill

__all__ = ["pristine"]


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["store", *words], prog_name="eka")


def damage(root: Path) -> None:
    """One large file, and the pack of all small ones."""
    with Store.open(root) as store:
        fill(store)
        for row in store.blobs.rows():
            if row.name:
                place = Path(store.blobs.place(row))
                os.chmod(place, 0o644)
                place.write_bytes(place.read_bytes()[:-1] + b"!")
    for pack in (root / "packs").iterdir():
        pack.unlink()


def test_what_is_lost_comes_back(
    tmp_path: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [name for name in os.environ if name.startswith(("NIX_", "EKA_", "XDG_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NIX_CONF_DIR", str(tmp_path))
    monkeypatch.setenv("EKA_STORE", str(tmp_path / "store"))
    damage(tmp_path / "store")
    result = run("verify", "--deep", "--repair")
    assert result.exit_code == 25, result.output
    with serving(pristine) as server:
        monkeypatch.setenv("EKA_SUBSTITUTERS", server.url)
        assert run("--offline", "verify", "--deep", "--repair").exit_code == 25
        assert server.asked == []
        result = run("verify", "--deep", "--repair")
        assert result.exit_code == 0, result.output
        # What is whole is not asked for again.
        asked = len(server.asked)
        assert run("verify", "--deep", "--repair").exit_code == 0
        assert len(server.asked) == asked
    with Store.open(tmp_path / "store") as store:
        assert not problems(store)
        assert store.info(A)
    assert_clean(tmp_path / "store")
