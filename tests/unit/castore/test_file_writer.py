"""Blob files that another process writes: the same files, and the same errors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from eka_runtime.castore import batch as batch_module
from eka_runtime.castore import file_writer, intake
from eka_runtime.castore.blobs import PACKED_MAX
from eka_runtime.castore.file_writer import FileWriter
from eka_runtime.castore.ingest import ingest_tree
from eka_runtime.errors import HostError, StoreAccessError
from tests.unit.castore.local import Castore, file_limit, naive_nar
from tests.unit.castore.test_hashing import children
from tests.unit.castore.test_ingest import in_castore
from tests.unit.nix.trees import Dir, File, Tree, to_disk


@pytest.fixture(autouse=True, scope="module")
def apart() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "APART_FROM", 1)
        patch.setattr(batch_module, "may_fork", lambda: True)
        yield


def _files(number: int, size: int = PACKED_MAX) -> Dir:
    return Dir(
        tuple(
            (b"%04d" % n, File(n.to_bytes(2) * (size // 2), executable=n % 3 == 0))
            for n in range(number)
        )
    )


def _same(castore: Castore, tree: Tree, place: Path) -> None:
    assert in_castore(castore, to_disk(tree, place))[0] == naive_nar(tree)


def test_more_files_than_there_are_slots(castore: Castore, tmp_path: Path) -> None:
    tree = _files(60)
    before = children()
    _same(castore, tree, tmp_path / "source")
    assert children() == before
    assert castore.add_nar(naive_nar(tree)) == castore.add_tree(tmp_path / "source")
    modes = [(castore.blobs.directory / name).stat().st_mode & 0o777 for name in castore.files()]
    assert (modes.count(0o555), modes.count(0o444)) == (20, 40)


def test_of_a_nar(castore: Castore) -> None:
    tree = _files(40, intake.LARGE - 2)
    castore.add_nar(naive_nar(tree))
    assert len(castore.files()) == 40


def test_the_same_contents_twice_are_one_file(castore: Castore, tmp_path: Path) -> None:
    one = File(b"x" * PACKED_MAX)
    _same(castore, Dir(((b"a", one), (b"b", one))), tmp_path / "source")
    assert len(castore.files()) == 1


def test_an_error_of_the_disk_is_told_and_nothing_is_left(damaged: Castore, tmp_path: Path) -> None:
    source = to_disk(_files(60), tmp_path / "source")
    with damaged.batch() as batch:
        batch.add_blob(b"small")
        before = len(os.listdir("/proc/self/fd")), children()
        with file_limit(1000), pytest.raises(StoreAccessError, match="File too large"):
            ingest_tree(batch, source)
        assert (len(os.listdir("/proc/self/fd")), children()) == before
    assert damaged.files() == []
    damaged.check()


def test_a_writer_that_is_killed(castore: Castore) -> None:
    before = children()
    with FileWriter(str(castore.root / "tmp"), str(castore.blobs.directory)) as writer:
        writer.put("ab/one", b"x" * PACKED_MAX, False)
        writer.finish()
        [pid] = children() - before
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(HostError, match="has ended"):
            _put_many(writer)
    (castore.blobs.directory / "ab" / "one").unlink()


def _put_many(writer: FileWriter) -> None:
    for number in range(file_writer._SLOTS + 1):
        writer.put(f"ab/{number}", b"x", False)


def test_a_name_that_is_taken_is_an_error(castore: Castore) -> None:
    with FileWriter(str(castore.root / "tmp"), str(castore.blobs.directory)) as writer:
        writer.put("ab/one", b"x", False)
        writer.put("ab/one", b"y", False)
        with pytest.raises(FileExistsError):
            writer.finish()
    place = castore.blobs.directory / "ab" / "one"
    assert place.read_bytes() == b"x"
    place.unlink()


@pytest.mark.usefixtures("no_processes")
def test_where_no_process_is_to_be_had_threads_write(castore: Castore, tmp_path: Path) -> None:
    _same(castore, _files(20), tmp_path / "source")


def test_where_files_have_names_in_the_making_threads_write(
    castore: Castore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed would leave them."""
    monkeypatch.setattr(batch_module, "FileWriter", None)
    source = to_disk(_files(20), tmp_path / "source")
    with castore.batch(unnamed=False) as batch:
        ingest_tree(batch, source)
        castore.commit(batch)
    assert len(castore.files()) == 20
