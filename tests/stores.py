"""Stores for tests: every one is verified to the last byte when its test ends.

Import the fixtures in a conftest. `damaged` is for tests that break a store on purpose.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eka_runtime.castore.node import SymlinkNode
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.nar import MAGIC, symlink
from eka_runtime.nix.path import ContentAddress, StorePath, path_for_ca
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.store.verify import Problem

_NOBODY = 65534


def problems(store: Store, *, deep: bool = True) -> list[Problem]:
    found: list[Problem] = []
    assert store.verify(deep=deep, report=found.append).problems == len(found)
    return found


def assert_clean(root: Path) -> None:
    """Nothing is wrong with the store, and nothing was left in its tmp/."""
    with Store.open(root, create=False) as store:
        # With their own messages: pytest explains assertions in test modules only.
        found, left = problems(store), os.listdir(store.layout.tmp)
        assert not found, found
        assert not left, left


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened
    assert_clean(tmp_path / "store")


@pytest.fixture
def store_dir(tmp_path: Path) -> Iterator[Path]:
    """Where a store may be made; one that was is verified."""
    root = tmp_path / "store"
    yield root
    if root.exists():
        assert_clean(root)


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Store]:
    """A store with one tree of two files; not verified afterwards."""
    source = tmp_path / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "small").write_bytes(b"small")
    (source / "sub" / "large").write_bytes(b"large" * 100_000)
    with Store.open(tmp_path / "store") as opened:
        opened.add_tree(source)
        yield opened


def link_info(
    target: str, references: Iterable[StorePath] = (), *, to_itself: bool = False
) -> PathInfo:
    """A path that needs no blobs, being a symlink, and may have any references."""
    nar = MAGIC + symlink(target.encode())
    nar_hash = hashlib.sha256(nar).digest()
    address = ContentAddress("recursive", NixHash("sha256", nar_hash))
    others = tuple(sorted(references))
    path = path_for_ca("link", address, others, to_itself)
    every = tuple(sorted({*others, path})) if to_itself else others
    node = SymlinkNode(target.encode())
    return PathInfo(path, node, nar_hash, len(nar), every, ca=str(address))


def insert(store: Store, *infos: PathInfo) -> None:
    with store.database.transaction() as conn:
        for info in infos:
            store.paths.insert(conn, info)


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Everything below a directory but the database's own files, by relative name."""
    return {
        os.fspath(place.relative_to(root)): place.read_bytes() if place.is_file() else None
        for place in sorted(root.rglob("*"))
        if not place.name.startswith("db.sqlite-")
    }


def race(code: str, *arguments: str | Path, racers: int = 2) -> list[bytes]:
    """Runs Python code, which must wait for the end of stdin, in processes that start as one."""
    command: list[str | Path] = [sys.executable, "-c", code, *arguments]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(racers)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    outputs = []
    for process in processes:
        assert process.stdout is not None
        with process.stdout:
            outputs.append(process.stdout.read())
        assert process.wait() == 0
    return outputs


@contextmanager
def public_directory() -> Iterator[Path]:
    """One that other users can enter, which pytest's are not."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permission bits mean nothing to root: goes on as nobody where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
