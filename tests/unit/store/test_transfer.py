"""Streams, NARs and trees: round trips, hostile input, damage on the way out."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eka_runtime.errors import (
    ExportError,
    FormatError,
    HashMismatch,
    NarError,
    PathNotFound,
    StoreCorrupt,
    StoreError,
    UsageError,
)
from eka_runtime.nix.export import STREAM_END, ExportItem, write_export
from eka_runtime.nix.nar import MAX_DEPTH, NarWriter, Write
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from tests.stores import assert_clean, insert, link_info, race
from tests.unit.castore.harm import change, remove
from tests.unit.nix.trees import Dir, File, Link, Tree, directory, to_disk, to_nar

A, B, C = (StorePath(letter * 32, letter) for letter in "abc")
DRV = StorePath("d" * 32, "c.drv")
TREE_A: Tree = directory(bin=directory(run=File(b"#!/bin/sh\n", executable=True), r=Link(b"run")))
TREE_B: Tree = File(b"refers to a" * 10_000)
TREE_C: Tree = Dir(((b"\xff", File(b"")), (b"\xff\n", File(b"#!/bin/sh\n"))))
CLOSURE = [
    (ExportItem(A, (), None), TREE_A),
    (ExportItem(B, (A,), DRV), TREE_B),
    (ExportItem(C, (A, B, C), DRV), TREE_C),
]


def _stream(*items: tuple[ExportItem, Tree]) -> bytes:
    out = io.BytesIO()
    pairs = [(item, lambda write, tree=tree: write(to_nar(tree))) for item, tree in items]
    write_export(pairs, out.write)
    return out.getvalue()


def _export(store: Store, *paths: StorePath) -> bytes:
    out = io.BytesIO()
    store.export(paths, out.write)
    return out.getvalue()


def _import(store: Store, data: bytes) -> list[PathInfo]:
    return store.import_stream(io.BytesIO(data).read)


def test_a_closure_comes_in_and_goes_out(store: Store) -> None:
    told: list[PathInfo] = []
    stream = _stream(*CLOSURE)
    imported = store.import_stream(io.BytesIO(stream).read, each=told.append)
    assert imported == told == [store.info(path) for path in (A, B, C)]
    assert [info.references for info in imported] == [(), (A,), (A, B, C)]
    assert [info.deriver for info in imported] == [None, DRV, DRV]
    assert all(info.ca is None and info.registered > 0 for info in imported)
    assert _export(store, C, A, B, A) == stream


def test_importing_again_changes_nothing(store: Store) -> None:
    first = _import(store, _stream(*CLOSURE))
    assert _import(store, _stream(*CLOSURE)) == first


def test_references_may_be_in_the_store_already(store: Store) -> None:
    _import(store, _stream(CLOSURE[0]))
    _import(store, _stream(CLOSURE[1]))
    assert store.closure([B]) == [A, B]


def test_bytes_may_come_in_drops(store: Store) -> None:
    stream = io.BytesIO(_stream(*CLOSURE))
    assert len(store.import_stream(lambda size: stream.read(min(size, 7)))) == 3


def test_an_empty_stream(store: Store) -> None:
    assert _import(store, STREAM_END) == []
    assert _export(store) == STREAM_END


def test_an_unknown_reference_stops_the_stream_there(store: Store) -> None:
    with pytest.raises(StoreError, match=f"`{C}` refers to `{B}`") as caught:
        _import(store, _stream(CLOSURE[0], CLOSURE[2], CLOSURE[1]))
    assert caught.value.hint
    assert [info.path for info in store.paths.all()] == [A]


def test_other_contents_for_a_valid_path(store: Store) -> None:
    (kept,) = _import(store, _stream(CLOSURE[0]))
    with pytest.raises(HashMismatch, match=A.base):
        _import(store, _stream((ExportItem(A, (), None), TREE_B)))
    assert store.info(A) == kept


def test_of_complete_paths_those_before_the_refused_one_stay(store: Store) -> None:
    _import(store, _stream(CLOSURE[0]))
    many = [(ExportItem(StorePath(f"{n:032}", "p"), (), None), File(b"%d" % n)) for n in range(90)]
    other = (ExportItem(A, (), None), TREE_B)
    told: list[PathInfo] = []
    stream = io.BytesIO(_stream(*many[:80], other, *many[80:]))
    with pytest.raises(HashMismatch, match=A.base):
        store.import_stream(stream.read, each=told.append)
    assert [info.path for info in told] == [item.path for item, _ in many[:80]]
    assert store.paths.count() == 81


def test_an_interrupt_keeps_what_is_complete(store: Store) -> None:
    stream = io.BytesIO(_stream(*CLOSURE[:2]))
    first = len(_stream(CLOSURE[0])) - len(STREAM_END)

    def read(size: int) -> bytes:
        if stream.tell() >= first:
            raise KeyboardInterrupt
        return stream.read(min(size, first))

    with pytest.raises(KeyboardInterrupt):
        store.import_stream(read)
    assert [info.path for info in store.paths.all()] == [A]


def test_every_truncation_is_an_error(store: Store) -> None:
    items = [(CLOSURE[0][0], TREE_A), (ExportItem(C, (A,), DRV), TREE_C)]
    stream = _stream(*items)
    first, second = (len(_stream(*items[:n])) - len(STREAM_END) for n in (1, 2))
    for size in [*range(0, len(stream), 8), len(stream) - 1]:
        with pytest.raises(FormatError, match="byte"):
            _import(store, stream[:size])
        assert (store.paths.get(A) is not None) == (size >= first)
        assert (store.paths.get(C) is not None) == (size >= second)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"nix-archive-1", b"nix-archive-2", NarError),
        (b"NIXE", b"XXXX", ExportError),
        (b"/nix/store/a", b"/nix/store/e", ExportError),
        (b"/nix/store/", b"/nix/../../", ExportError),
        (b"\x03\0\0\0\0\0\0\0bin", b"\x03\0\0\0\0\0\0\0b/n", NarError),
        (b"\x03\0\0\0\0\0\0\0bin", b"\xff\xff\xff\xff\xff\xff\xff\x7fbin", NarError),
        (b"directory", b"directorz", NarError),
        (b"\x0a\0\0\0\0\0\0\0#!", b"\0\0\0\0\0\0\0\x80#!", NarError),
        (b"\x0a\0\0\0\0\0\0\0#!", b"\xff\xff\xff\xff\xff\xff\xff\x7f#!", NarError),
    ],
)
def test_hostile_streams_change_nothing(
    store: Store, old: bytes, new: bytes, error: type[FormatError]
) -> None:
    stream = _stream(CLOSURE[0])
    assert old in stream
    with pytest.raises(error, match="byte"):
        _import(store, stream.replace(old, new))
    assert store.paths.count() == 0
    assert store.database.connection.execute("SELECT count(*) FROM blob").fetchone() == (0,)


_IMPORT = """
import sys
from pathlib import Path
from eka_runtime.store.store import Store
with Store.open(Path(sys.argv[1])) as store:
    sys.stdin.read()
    with open(sys.argv[2], "rb") as file:
        print(*[info.path for info in store.import_stream(file.read)])
"""


def test_two_processes_import_the_same_at_once(store_dir: Path, tmp_path: Path) -> None:
    items = [(ExportItem(StorePath(f"{n:032}", "p"), (), None), File(b"%d" % n)) for n in range(50)]
    (tmp_path / "stream").write_bytes(_stream(*items, *CLOSURE))
    outputs = race(_IMPORT, store_dir, tmp_path / "stream")
    assert outputs[0] == outputs[1]
    with Store.open(store_dir) as store:
        assert store.paths.count() == len(outputs[0].split()) == 53


_DIE = """
import os, sys
from pathlib import Path
from eka_runtime.store.store import Store
told = 0
def each(info):
    global told
    told += 1
    if told == 2:  # others may be valid by now, untold
        os.kill(os.getpid(), 9)
with Store.open(Path(sys.argv[1])) as store, open(sys.argv[2], "rb") as file:
    store.import_stream(file.read, each=each)
"""


def test_a_killed_import_keeps_what_it_had_told(store_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(_stream(*CLOSURE))
    command: list[str | Path] = [sys.executable, "-c", _DIE, store_dir, tmp_path / "stream"]
    assert subprocess.run(command, check=False).returncode == -9
    with Store.open(store_dir) as store:
        assert {A, B} <= {info.path for info in store.paths.all()}
    assert_clean(store_dir)


def test_exports_fail_before_the_first_byte_if_they_can(store: Store) -> None:
    _import(store, _stream(CLOSURE[0]))
    out = io.BytesIO()
    with pytest.raises(PathNotFound, match=B.base):
        store.export([A, B], out.write)
    assert out.getvalue() == b""


@pytest.mark.parametrize("packed", [True, False])
def test_an_export_of_damaged_contents_does_not_end_well(damaged: Store, packed: bool) -> None:
    (info,) = damaged.paths.all()
    for row in damaged.blobs.rows():
        if packed == (not row.name):
            change(damaged.blobs, row)
    out = io.BytesIO()
    with pytest.raises(StoreCorrupt, match=info.path.base):
        damaged.export([info.path], out.write)
    with pytest.raises(FormatError), Store.open(damaged.root.parent / "other") as other:
        other.import_stream(io.BytesIO(out.getvalue()).read)
    with pytest.raises(StoreCorrupt):
        damaged.write_nar(info.path, lambda data: None)


def test_a_nar_is_that_of_the_tree(store: Store) -> None:
    _import(store, _stream(*CLOSURE))
    out = io.BytesIO()
    store.write_nar(C, out.write)
    assert out.getvalue() == to_nar(TREE_C)


def test_restore_makes_the_tree(store: Store, tmp_path: Path) -> None:
    path = store.add_tree(to_disk(TREE_A, tmp_path / "tree")).path
    dest = tmp_path / "out"
    store.restore(path, dest)
    assert (dest / "bin/run").read_bytes() == b"#!/bin/sh\n"
    assert os.readlink(dest / "bin/r") == "run"
    assert os.access(dest / "bin/run", os.X_OK)
    (dest / "bin/run").write_text("mine to change")
    (dest / "bin/new").touch()
    assert sorted(os.listdir(tmp_path)) == ["out", "store", "tree"]


def test_restore_of_a_part_a_file_and_a_link(store: Store, tmp_path: Path) -> None:
    path = store.add_tree(to_disk(TREE_A, tmp_path / "tree")).path
    store.restore(f"{path}/bin", tmp_path / "bin")
    store.restore(f"{path}/bin/run", tmp_path / "run")
    store.restore(f"{path}/bin/r", tmp_path / "r")
    assert sorted(os.listdir(tmp_path / "bin")) == ["r", "run"]
    assert (tmp_path / "run").read_bytes() == b"#!/bin/sh\n"
    assert os.readlink(tmp_path / "r") == "run"


@pytest.mark.parametrize("kind", ["file", "directory", "dangling"])
def test_restore_replaces_nothing(store: Store, tmp_path: Path, kind: str) -> None:
    info = link_info("target")
    insert(store, info)
    dest = tmp_path / "dest"
    if kind == "file":
        dest.write_text("mine")
    elif kind == "directory":
        dest.mkdir()
    else:
        dest.symlink_to("/absent")
    with pytest.raises(UsageError, match="exists already"):
        store.restore(info.path, dest)
    assert os.path.lexists(dest)
    assert not dest.is_file() or dest.read_text() == "mine"


def test_a_failed_restore_leaves_nothing(damaged: Store, tmp_path: Path) -> None:
    (info,) = damaged.paths.all()
    for row in damaged.blobs.rows():
        damage = remove if row.name else change
        damage(damaged.blobs, row)
    before = sorted(os.listdir(tmp_path))
    for part in ("", "/small", "/sub/large"):
        with pytest.raises(StoreCorrupt):
            damaged.restore(f"{info.path}{part}", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before
    with pytest.raises(UsageError, match="cannot write"):
        damaged.restore(info.path, tmp_path / "absent" / "out")


def _deep(write: Write) -> None:
    writer = NarWriter(write)
    writer.directory(b"")
    for _ in range(MAX_DEPTH - 1):
        writer.directory(b"d")
    writer.file(b"f", False, 1, io.BytesIO(b"x").read)
    for _ in range(MAX_DEPTH):
        writer.end_directory()


def test_trees_deeper_than_any_stack_or_path(store: Store, tmp_path: Path) -> None:
    out = io.BytesIO()
    write_export([(ExportItem(A, (), None), _deep)], out.write)
    _import(store, out.getvalue())
    assert _export(store, A) == out.getvalue()
    pieces: list[bytes] = []
    store.write_file(f"{A}/{'d/' * (MAX_DEPTH - 1)}f", pieces.append)
    assert pieces == [b"x"]
    # A pack that was read from stays open.
    store.blobs.packs.close()
    (file,) = store.layout.packs.iterdir()
    hidden = file.rename(tmp_path / "hidden")
    with pytest.raises(StoreCorrupt):
        store.restore(A, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["hidden", "store"]
    hidden.rename(file)
