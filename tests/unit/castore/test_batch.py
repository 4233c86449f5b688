"""The protocol of batch.py: what is seen when, what is trusted, and what is left behind."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import textwrap
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

from eka_runtime.castore.batch import DIRECT_ALIGNMENT
from eka_runtime.castore.blobs import BlobRow
from eka_runtime.castore.digest import B3Digest
from eka_runtime.errors import StoreAccessError, StoreCorrupt, StoreError
from tests.requirements import lacking
from tests.unit.castore.local import Castore, file_limit

ROOT = Path(__file__).parents[3]
DATA = b"Hello World"
D = B3Digest.of(DATA)


def _place(castore: Castore, name: str, data: bytes, mode: int = 0o444, mtime: int = 1) -> Path:
    """A file without a row, as a crash or another process leaves it."""
    path = castore.blobs.directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, (mtime, mtime))
    return path


def _add(castore: Castore, *contents: bytes, unnamed: bool = True) -> list[BlobRow]:
    with castore.batch(unnamed=unnamed) as batch:
        digests = [batch.add_blob(data) for data in contents]
        castore.commit(batch)
    rows = {row.digest: row for row in castore.blobs.rows()}
    return [rows[digest] for digest in digests]


@pytest.mark.parametrize("unnamed", [True, False], ids=["O_TMPFILE", "named"])
def test_a_blob_exists_when_its_row_is_committed(castore: Castore, unnamed: bool) -> None:
    with castore.batch(unnamed=unnamed) as batch:
        assert not batch.knows(D, len(DATA))
        assert batch.add_blob(DATA, executable=True) == D
        assert batch.knows(D, len(DATA))
        [name] = castore.files()
        status = (castore.blobs.directory / name).stat()
        assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o555, 10**9)
        assert status.st_nlink == 1
        assert not castore.blobs.has(D)
        castore.commit(batch)
    assert castore.blobs.row(D) == BlobRow(D, name, len(DATA))


def test_the_umask_does_not_matter(castore: Castore) -> None:
    previous = os.umask(0o077)
    try:
        [row] = _add(castore, DATA)
    finally:
        os.umask(previous)
    assert (castore.blobs.directory / row.name).stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("unnamed", [True, False], ids=["O_TMPFILE", "named"])
def test_an_abandoned_batch_leaves_no_temporary_file(castore: Castore, unnamed: bool) -> None:
    with castore.batch(unnamed=unnamed) as batch:
        batch.add_blob(DATA)
        writer = batch.writer(False)
        writer.write(memoryview(DATA))
        writer.close()
    assert list((castore.root / "tmp").iterdir()) == []
    assert not castore.blobs.has(D)


def test_what_is_known_is_not_written_again(castore: Castore) -> None:
    rows = _add(castore, DATA, b"")
    before = [(castore.blobs.directory / row.name).stat() for row in rows]
    with castore.batch() as batch:
        with file_limit(0):
            batch.add_blob(DATA, executable=True)
            batch.add_blob(b"")
            with pytest.raises(StoreAccessError, match="cannot write to the store"):
                batch.add_blob(b"new")
        castore.commit(batch)
    after = [(castore.blobs.directory / row.name).stat() for row in rows]
    assert before == after


def test_a_batch_may_be_flushed_more_than_once(castore: Castore) -> None:
    with castore.batch() as batch:
        for number in range(3):
            batch.add_blob(b"%d" % number)
            castore.commit(batch)
            assert batch.add_blob(b"0") == B3Digest.of(b"0")
    assert len(list(castore.blobs.rows())) == len(castore.files()) == 3


def test_a_rolled_back_flush_leaves_the_store_as_it_was(castore: Castore) -> None:
    def fail() -> None:
        with castore.batch() as batch, castore.database.transaction() as conn:
            batch.add_blob(DATA)
            batch.flush(conn)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not castore.blobs.has(D)
    [row] = _add(castore, DATA)
    assert castore.files() == [row.name]


def test_a_leftover_with_the_same_contents_is_used(castore: Castore) -> None:
    orphan = _place(castore, castore.blobs.name(D), DATA)
    inode = orphan.stat().st_ino
    [row] = _add(castore, DATA)
    assert castore.blobs.directory / row.name == orphan
    assert orphan.stat().st_ino == inode


@pytest.mark.parametrize(
    ("data", "mode", "mtime"),
    [
        (b"hello World", 0o444, 1),
        (b"", 0o444, 1),
        (DATA + b"!", 0o444, 1),
        (DATA, 0o644, 1),
        (DATA, 0o4555, 1),
        (DATA, 0o444, 2),
    ],
    ids=["other", "empty", "longer", "writable", "setuid", "time"],
)
def test_a_leftover_that_is_not_the_blob_is_never_used(
    castore: Castore, data: bytes, mode: int, mtime: int
) -> None:
    orphan = _place(castore, castore.blobs.name(D), data, mode, mtime)
    [row] = _add(castore, DATA)
    assert row.name == list(islice(castore.blobs.names(D), 2))[1]
    assert orphan.read_bytes() == data
    # The row decides from now on, wherever the leftover goes.
    orphan.unlink()
    assert _add(castore, DATA) == [row]


@pytest.mark.parametrize("kind", ["directory", "fifo", "symlink"])
def test_anything_may_lie_at_the_name(castore: Castore, kind: str) -> None:
    path = castore.blobs.directory / castore.blobs.name(D)
    path.parent.mkdir()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(castore.root / "elsewhere")
    [row] = _add(castore, DATA)
    assert castore.blobs.directory / row.name != path
    assert not (castore.root / "elsewhere").exists()


def test_a_blob_without_a_name_left_is_an_error(castore: Castore) -> None:
    for name in castore.blobs.names(D):
        _place(castore, name, b"taken")
    with pytest.raises(StoreError, match=r"all names of blob blake3-\S+ are taken"):
        _add(castore, DATA)


def _clashing(castore: Castore, count: int) -> list[bytes]:
    by_name: dict[str, list[bytes]] = defaultdict(list)
    for number in range(100_000):
        data = b"%d" % number
        found = by_name[castore.blobs.name(B3Digest.of(data))]
        found.append(data)
        if len(found) == count:
            return found
    raise LookupError("no clash")


def test_blobs_of_one_short_name_never_share_a_file(tmp_path: Path) -> None:
    with Castore.open(tmp_path / "castore", name_size=2) as castore:
        contents = _clashing(castore, 3)
        rows = _add(castore, *contents[:2]) + _add(castore, contents[2])
        assert len({row.name for row in rows}) == 3
        for row, data in zip(rows, contents, strict=True):
            assert (castore.blobs.directory / row.name).read_bytes() == data
        assert _add(castore, *reversed(contents)) == rows[::-1]
        castore.check()


def test_a_clash_with_a_blob_whose_file_is_gone_is_an_error(tmp_path: Path) -> None:
    with Castore.open(tmp_path / "castore", name_size=2) as castore:
        first, second = _clashing(castore, 2)
        [row] = _add(castore, first)
        (castore.blobs.directory / row.name).unlink()
        with pytest.raises(StoreCorrupt, match="took the place of another"):
            _add(castore, second)
        assert [one.digest for one in castore.blobs.rows()] == [row.digest]


@pytest.mark.parametrize("unnamed", [True, False], ids=["O_TMPFILE", "named"])
@pytest.mark.parametrize("left", [None, b"", b"Hello"])
def test_adding_again_mends_a_blob_of_the_wrong_size(
    castore: Castore, left: bytes | None, unnamed: bool
) -> None:
    [row] = _add(castore, DATA)
    path = castore.blobs.directory / row.name
    path.unlink()
    if left is not None:
        _place(castore, row.name, left)
    assert _add(castore, DATA, unnamed=unnamed) == [row]
    assert path.read_bytes() == DATA
    assert castore.files() == [row.name]


def test_many_threads_may_add_the_same(castore: Castore) -> None:
    contents = [b"%d" % (number % 50) for number in range(400)]
    # `put` is what other threads call: the one that has the batch asks `knows` before.
    with castore.batch() as batch, ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda data: batch.put(B3Digest.of(data), data, False), contents):
            pass
        castore.commit(batch)
    assert len(castore.files()) == len(list(castore.blobs.rows())) == 50


@pytest.mark.parametrize("unnamed", [True, False], ids=["O_TMPFILE", "named"])
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("tail", [0, 1, DIRECT_ALIGNMENT - 1, DIRECT_ALIGNMENT])
def test_a_blob_may_come_in_pieces(
    castore: Castore, direct: bool, tail: int, unnamed: bool
) -> None:
    size = 4 * DIRECT_ALIGNMENT
    buffer = memoryview(mmap.mmap(-1, size))
    buffer[:] = os.urandom(size)
    expected = bytes(buffer) + bytes(buffer[:tail])
    with castore.batch(unnamed=unnamed) as batch:
        writer = batch.writer(True, direct=direct)
        writer.write(buffer)
        writer.write(buffer[:tail])
        writer.finish(B3Digest.of(expected))
        writer.close()
        castore.commit(batch)
    [row] = castore.blobs.rows()
    assert row.size == len(expected)
    assert (castore.blobs.directory / row.name).read_bytes() == expected


def test_an_error_of_writing_comes_with_advice(castore: Castore) -> None:
    with (
        castore.batch() as batch,
        file_limit(1 << 16),
        pytest.raises(StoreAccessError, match="File too large") as caught,
    ):
        batch.add_blob(bytes(1 << 17))
    assert caught.value.hint
    assert castore.files() == []


def test_what_was_not_written_completely_is_never_placed(castore: Castore) -> None:
    pieces = [memoryview(bytes(1 << 16)), memoryview(b"one more"), memoryview(b"the end")]
    with castore.batch() as batch:
        writer = batch.writer(False)
        writer.write(pieces[0])
        with file_limit(1 << 16), pytest.raises(StoreAccessError):
            writer.write(pieces[1])
        writer.write(pieces[2])
        with pytest.raises(StoreError, match="not written completely"):
            writer.finish(B3Digest.of(b"".join(pieces)))
        writer.close()
    assert castore.files() == []


def test_a_store_that_is_not_there_is_named(castore: Castore) -> None:
    (castore.root / "blobs").rmdir()
    with pytest.raises(StoreAccessError, match=str(castore.root)), castore.batch():
        pass
    (castore.root / "blobs").mkdir()


def _python(script: str, *args: str | Path, prefix: tuple[str, ...] = ()) -> list[str | Path]:
    code = "import sys\nsys.path.insert(0, sys.argv[1])\n" + textwrap.dedent(script)
    return [*prefix, sys.executable, "-c", code, ROOT, *args]


def test_a_killed_process_leaves_nothing_half_done(castore: Castore) -> None:
    script = """
        from pathlib import Path
        from tests.unit.castore.local import Castore

        with Castore.open(Path(sys.argv[2])) as castore, castore.batch() as batch:
            batch.add_blob(b"placed")
            writer = batch.writer(False)
            writer.write(memoryview(b"half"))
            with castore.database.transaction() as conn:
                batch.flush(conn)
                print("ready", flush=True)
                sys.stdin.read()
    """
    with subprocess.Popen(
        _python(script, castore.root), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    # Complete but unknown; and it does not stand in the way.
    assert len(castore.files()) == 1
    assert list(castore.blobs.rows()) == []
    _add(castore, b"placed")
    assert len(castore.files()) == 1


_ON_A_SMALL_DISK = """
    import os
    import subprocess
    from pathlib import Path
    from eka_runtime.errors import StoreAccessError
    from tests.unit.castore.local import Castore

    root = Path(sys.argv[2])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", root], check=True)
    with Castore.open(root) as castore:
        with castore.batch() as batch:
            batch.add_blob(b"before")
            castore.commit(batch)
            try:
                batch.add_blob(bytes(8 << 20))
            except StoreAccessError as error:
                print(error, "|", error.hint)
        assert list((root / "tmp").iterdir()) == []
        with castore.batch() as batch:
            batch.add_blob(b"after")
            castore.commit(batch)
        assert len(list(castore.blobs.rows())) == 2
        castore.check()
"""
_ON_A_READ_ONLY_DISK = """
    import os
    import subprocess
    from pathlib import Path
    from eka_runtime.errors import StoreAccessError
    from tests.unit.castore.local import Castore

    root = Path(sys.argv[2])
    for options in (["--bind", root, root], ["-o", "remount,bind,ro", root]):
        subprocess.run(["mount", *options], check=True)
    with Castore.open(root) as castore, castore.batch() as batch:
        try:
            batch.add_blob(b"new")
        except StoreAccessError as error:
            print(error, "|", error.hint)
"""


@pytest.mark.parametrize(
    ("script", "message", "hint"),
    [
        (_ON_A_SMALL_DISK, "No space left on device", "free some space"),
        (_ON_A_READ_ONLY_DISK, "Read-only file system", "writable file system"),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_in_trouble(castore: Castore, script: str, message: str, hint: str) -> None:
    enter = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode:
        lacking("no user namespaces here")
    done = subprocess.run(
        _python(script, castore.root, prefix=enter), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert message in done.stdout.decode()
    assert hint in done.stdout.decode()
