"""`eka store mount --from`: what is elsewhere is there at once, and fetched when it is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eka_runtime.store.store import Store
from tests.stores import store_dir
from tests.unit.nix.trees import Dir, File, Link, to_disk
from tests.views import need_fuse

__all__ = ["store_dir"]

TREE = Dir(
    (
        (b"empty", File(b"")),
        (b"large", File(os.urandom(3_000_000))),
        (b"link", Link(b"sub/small")),
        (b"sub", Dir(((b"run", File(b"#!/bin/sh", True)), (b"small", File(b"small"))))),
    )
)


def eka(store: Path, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "eka", "store", "--store", store, *words]
    return subprocess.run(command, capture_output=True, check=False, timeout=100)


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """An object store with one tree."""
    need_fuse()
    with Store.open(tmp_path / "origin") as store:
        path = str(store.add_tree(to_disk(TREE, tmp_path / "tree")).path)
    made = tmp_path / "far"
    made.mkdir()
    done = eka(tmp_path / "origin", "copy", "--to", f"objectstore+file://{made}", path)
    assert done.returncode == 0, done.stderr.decode()
    return made


def inside(store: Path, far: Path, code: str, tmp_path: Path) -> subprocess.CompletedProcess[bytes]:
    """Runs a shell script with the mount as $1, and the tree in it as $2."""
    place = tmp_path / "mnt"
    place.mkdir()
    with Store.open(tmp_path / "origin") as origin:
        [info] = origin.paths.all()
    words = ("mount", place, "--from", f"objectstore+file://{far}", "--")
    return eka(store, *words, "sh", "-c", code, "sh", place, place / info.path.base)


def test_a_tree_is_as_it_was(store_dir: Path, far: Path, tmp_path: Path) -> None:
    code = f'ls "$1"; diff -r --no-dereference {tmp_path}/tree "$2" && echo same'
    done = inside(store_dir, far, code, tmp_path)
    assert done.stderr == b""
    name, same = done.stdout.decode().splitlines()
    assert (len(name) > 33, same) == (True, "same")


def test_only_what_was_read_is_fetched(store_dir: Path, far: Path, tmp_path: Path) -> None:
    done = inside(store_dir, far, 'stat "$2" > /dev/null', tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    with Store.open(store_dir) as store:
        assert list(store.blobs.rows()) == []
        assert list(store.paths.all()) == []


@pytest.mark.parametrize("harm", [b"something else", None], ids=["changed", "missing"])
def test_what_cannot_be_had_is_an_input_error(
    store_dir: Path, far: Path, tmp_path: Path, harm: bytes | None
) -> None:
    files = [
        file for file in far.rglob("*") if file.is_file() and {"blobs", "chunks"} & {*file.parts}
    ]
    assert files
    for file in files:
        if harm is None:
            file.unlink()
        else:
            file.write_bytes(harm)
    code = 'find "$2" -type f -size +0 -exec cat {} +'
    done = inside(store_dir, far, code, tmp_path)
    assert (done.returncode != 0, done.stdout) == (True, b"")
    assert b"Input/output error" in done.stderr
    assert b"cannot show blob blake3-" in done.stderr
    assert os.listdir(store_dir / "tmp") == []
