"""`builtin:fetchurl` runs in no sandbox: the derivation's inputs alone say what it may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from eka_runtime.build.attributes import Attributes
from eka_runtime.build.fetchurl import fetch
from eka_runtime.build.task import Task
from eka_runtime.errors import BuilderFailed
from eka_runtime.nix.derivation import Derivation, Output
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from tests.archives import greedy_xz
from tests.stores import store

__all__ = ["store"]

OUT = StorePath("0" * 32, "fetched")


def task(url: str, *inputs: PathInfo, **env: str) -> Task:
    output = Output(str(OUT), "sha256", "00" * 32)
    env |= {"url": url}
    drv = Derivation("fetched", {"out": output}, "builtin", "builtin:fetchurl", (), env)
    return Task(StorePath("1" * 32, "x.drv"), drv, Attributes.of(drv), inputs, {"out": OUT})


def test_a_file_of_an_input(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("hello\n")
    added = store.add_tree(tmp_path / "tree")
    fetch(store, task(f"file://{added.path}/file", added), tmp_path, offline=True)
    assert (tmp_path / OUT.base).read_text() == "hello\n"


def test_no_other_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host\n")
    added = store.add_tree(tmp_path / "secret")
    for place in (tmp_path / "secret", "/dev/zero", added.path, f"{added.path}/../../secret"):
        with pytest.raises(BuilderFailed, match="no input of the derivation"):
            fetch(store, task(f"file://{place}"), tmp_path, offline=True)
        assert not (tmp_path / OUT.base).exists()


def test_unpacking_takes_little_memory(store: Store, tmp_path: Path) -> None:
    (tmp_path / "nar.xz").write_bytes(greedy_xz())
    added = store.add_tree(tmp_path / "nar.xz")
    wanted = task(f"file://{added.path}", added, unpack="1")
    with pytest.raises(BuilderFailed, match=r"(?i)memory"):
        fetch(store, wanted, tmp_path, offline=True)
