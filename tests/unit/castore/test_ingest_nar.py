"""NARs in: the same nodes as from disk, whatever the pieces, and nothing from hostile ones."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.castore.blobs import PACKED_MAX
from eka_runtime.castore.ingest import ingest_nar
from eka_runtime.castore.intake import CHUNK, LARGE
from eka_runtime.castore.render import nar_of
from eka_runtime.errors import NarError, StoreAccessError
from eka_runtime.nix.nar import NarReader
from tests.requirements import require
from tests.unit.castore.local import Castore, file_limit, naive_nar, temporary
from tests.unit.castore.test_ingest import NASTY
from tests.unit.nix.trees import Dir, File, Tree, directory, in_pieces, to_disk, trees


@given(trees, st.integers(1, 4096))
def test_a_nar_is_the_tree_it_was_made_of(tree: Tree, piece: int) -> None:
    with temporary() as path, Castore.open(path / "castore") as castore:
        nar = naive_nar(tree)
        done = castore.add_nar(nar, piece)
        assert (done.nar_hash, done.nar_size) == (hashlib.sha256(nar).digest(), len(nar))
        assert castore.add_tree(to_disk(tree, path / "source")) == done
        assert nar_of(done.node, castore.blobs, castore.directories) == nar
        castore.check()


@pytest.mark.parametrize(
    "size",
    [PACKED_MAX - 1, PACKED_MAX, LARGE - 1, LARGE, LARGE + 1, 30 * CHUNK + 9],
)
@pytest.mark.parametrize("piece", [60_001, 1 << 21])
def test_files_of_every_size(castore: Castore, size: int, piece: int) -> None:
    contents = hashlib.shake_128(b"%d" % size).digest(size)
    nar = naive_nar(directory(a=File(b"before"), b=File(contents, True), c=File(b"after")))
    done = castore.add_nar(nar, piece)
    assert (done.nar_hash, done.nar_size) == (hashlib.sha256(nar).digest(), len(nar))
    assert nar_of(done.node, castore.blobs, castore.directories) == nar


def test_what_follows_stays_readable(castore: Castore) -> None:
    nars = [naive_nar(tree) for tree in (NASTY, File(bytes(2 * LARGE)), Dir(()))]
    reader = NarReader(io.BytesIO(b"".join(nars) + bytes(8)).read)
    with castore.batch() as batch:
        done = [ingest_nar(batch, reader) for _ in nars]
        castore.commit(batch)
    assert [one.nar_hash for one in done] == [hashlib.sha256(nar).digest() for nar in nars]
    assert reader.offset == sum(map(len, nars))
    assert reader.u64("what follows") == 0


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_nar_leaves_nothing(castore: Castore, keep: float) -> None:
    tree = directory(a=File(b"small"), b=File(bytes(PACKED_MAX)), c=File(os.urandom(3 * LARGE)))
    nar = naive_nar(tree)
    before = threading.active_count()
    with pytest.raises(NarError, match="input ends"):
        castore.add_nar(nar[: int(len(nar) * keep)])
    assert threading.active_count() == before
    assert list(castore.blobs.rows()) == []
    assert castore.files() == []
    assert castore.add_nar(nar).nar_size == len(nar)


@given(st.data())
def test_a_changed_byte_is_another_tree_or_an_error(data: st.DataObject) -> None:
    nar = bytearray(naive_nar(NASTY))
    nar[data.draw(st.integers(0, len(nar) - 1))] ^= data.draw(st.integers(1, 255))
    with temporary() as path, Castore.open(path / "castore") as castore:
        try:
            done = castore.add_nar(bytes(nar))
        except NarError:
            return
        # Whatever was accepted comes out as it came in.
        assert nar_of(done.node, castore.blobs, castore.directories) == nar
        assert done.nar_hash == hashlib.sha256(nar).digest()


def test_memory_does_not_grow_with_the_nar(castore: Castore) -> None:
    contents = File(bytes(100 << 20))
    nar = naive_nar(directory(a=contents, b=contents))
    source = in_pieces(nar, CHUNK)
    tracemalloc.start()
    try:
        castore.add(lambda batch: ingest_nar(batch, NarReader(source)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def test_many_files_in_flight_take_bounded_memory(castore: Castore) -> None:
    entries = tuple((b"%03d" % number, File(os.urandom(LARGE - 1))) for number in range(60))
    nar = naive_nar(Dir(entries))
    source = in_pieces(nar, CHUNK)
    tracemalloc.start()
    try:
        castore.add(lambda batch: ingest_nar(batch, NarReader(source)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def test_a_large_file_that_is_known_is_not_written_again(castore: Castore) -> None:
    nar = naive_nar(File(os.urandom(3 * LARGE + 1)))
    first = castore.add_nar(nar)
    with castore.batch() as batch, file_limit(0):
        assert ingest_nar(batch, NarReader(io.BytesIO(nar).read)) == first


def test_a_store_that_cannot_be_written_is_an_error(castore: Castore) -> None:
    nar = naive_nar(File(os.urandom(3 * LARGE)))
    with (
        castore.batch() as batch,
        file_limit(0),
        pytest.raises(StoreAccessError, match="cannot write to the store"),
    ):
        ingest_nar(batch, NarReader(io.BytesIO(nar).read))


def test_a_nar_of_nix(castore: Castore, tmp_path: Path) -> None:
    source = to_disk(NASTY, tmp_path / "source")
    command: list[str | Path] = [require("nix-store"), "--dump", source]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        # A pipe gives what it has, in pieces of its own.
        read = process.stdout.raw.read  # type: ignore[attr-defined]
        done = castore.add(lambda batch: ingest_nar(batch, NarReader(read)))
    assert done == castore.add_tree(source)
