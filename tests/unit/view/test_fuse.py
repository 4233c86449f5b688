"""The fuse view under load and in trouble, through the kernel, as launchers mount it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory
from eka_runtime.errors import StoreAccessError
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.fuse import FuseView
from tests.unit.castore.harm import change
from tests.views import Shown, show_fuse

GIB = 1 << 30

_READERS = """
import hashlib, os, sys
sums = {}
for name in sorted(os.listdir(sys.argv[1])):
    sums[name] = hashlib.sha256(open(os.path.join(sys.argv[1], name), "rb").read()).hexdigest()
sys.stdout.write(hashlib.sha256(repr(sums).encode()).hexdigest())
"""


def show(store: Store, *infos: PathInfo) -> Shown:
    return show_fuse(store, infos, Path())


def test_a_huge_directory(store: Store, tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    huge.mkdir()
    for number in range(40_000):
        os.symlink("x", huge / f"{number:05}-{'n' * (number % 200)}")
    info = store.add_tree(huge)
    view = show(store, info)
    code = "import os, sys; names = os.listdir(sys.argv[1]); print(len(names), len(set(names)))"
    assert view.python(code, view.place / info.path.base) == b"40000 40000\n"
    code = "import os, sys; print(sum(os.lstat(e).st_size for e in os.scandir(sys.argv[1])))"
    assert view.python(code, view.place / info.path.base) == b"40000\n"


def test_a_gigabyte(store: Store, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as stream:
        for number in range(64):
            stream.seek(number << 24)
            stream.write(os.urandom(4096))
        stream.truncate(GIB + 1)
    info = store.add_tree(big)
    view = show(store, info)
    assert view.run("cmp", view.place / info.path.base, big).returncode == 0


def test_many_readers_at_once(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(400):
        (tree / str(number)).write_bytes(os.urandom(1 + number * number * 2))
    info = store.add_tree(tree)
    view = show(store, info)
    script = 'for n in 1 2 3 4 5 6 7 8; do "$1" -c "$2" "$3" & done; wait'
    words = [sys.executable, _READERS, view.place / info.path.base]
    done = view.run("sh", "-c", script, "sh", *words)
    assert done.returncode == 0, done.stderr.decode()
    expected = Shown(tree).python(_READERS, tree)
    assert done.stdout == expected * 8


def test_a_server_that_dies_is_an_error_and_no_wait(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    info = store.add_tree(tmp_path / "file")
    view = show(store, info)
    script = 'cat "$1" && kill -9 $SERVER && ls "$1-"'
    done = view.run("sh", "-c", script, "sh", view.place / info.path.base, timeout=60)
    assert done.stdout == b"content"
    # A request that was on its way is aborted, a later one is refused.
    assert b"not connected" in done.stderr or b"connection abort" in done.stderr


def test_damage_is_an_input_error_that_is_explained(damaged: Store) -> None:
    [info] = damaged.paths.all()
    for data in (b"small", b"large" * 100_000):
        row = damaged.blobs.row(B3Digest.of(data))
        assert row is not None
        change(damaged.blobs, row, at=1)
    view = show(damaged, info)
    place = view.place / info.path.base
    done = view.run("cat", place / "small", place / "sub" / "large")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"Input/output error") == 2
    assert done.stderr.count(b"eka: cannot show blob blake3-") >= 2


def test_a_view_is_made_once_for_a_closure(store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    infos = [store.add_tree(tmp_path / name) for name in ("a", "b")]
    plan = FuseView(store).plan(infos)
    assert plan == FuseView(store).plan(infos[::-1])
    assert (plan.strategy, plan.links, len(plan.mounts)) == ("fuse", (), 1)
    assert plan.mounts[0].destination == "/nix/store"
    assert plan != FuseView(store).plan(infos[:1])
    assert len(os.listdir(store.layout.fuse_view)) == 2
    assert not [name for name in os.listdir(store.layout.fuse_view) if name.startswith(".")]


def test_a_closure_that_was_changed_is_not_served(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    info = store.add_tree(tmp_path / "a")
    view = show(store, info)
    other = Directory.build([(b"x", info.node)])
    (view.place.parent / "closure").write_bytes(other.encode())
    done = view.run("ls", view.place)
    assert done.returncode != 0
    assert b"is damaged" in done.stderr


def test_a_view_that_cannot_be_written_is_an_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    info = store.add_tree(tmp_path / "a")
    store.layout.fuse_view.write_text("in the way")
    with pytest.raises(StoreAccessError, match="cannot write the view"):
        FuseView(store).plan([info])
    store.layout.fuse_view.unlink()
