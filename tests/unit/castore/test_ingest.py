"""Trees from disk: what becomes of them, what is refused, and that real Nix agrees."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from itertools import count, islice
from pathlib import Path

import pytest
from hypothesis import given

from eka_runtime.castore import intake
from eka_runtime.castore.assembly import Assembly
from eka_runtime.castore.blobs import PACKED_MAX
from eka_runtime.castore.hashing import StreamHash
from eka_runtime.castore.ingest import ingest_file, ingest_tree
from eka_runtime.castore.intake import CHUNK, DIRECT_MIN, LARGE, Intake
from eka_runtime.castore.node import DirectoryNode, FileNode, SymlinkNode
from eka_runtime.castore.recorder import NarRecorder
from eka_runtime.castore.render import nar_of
from eka_runtime.castore.tree import TreeReader
from eka_runtime.errors import CastoreError, StoreAccessError
from eka_runtime.nix.nar import MAX_DEPTH
from tests.requirements import lacking, require
from tests.stores import unprivileged
from tests.unit.castore.deep import deep_tree
from tests.unit.castore.local import Castore, file_limit, naive_nar, temporary
from tests.unit.nix.trees import COMPLICATED, Dir, File, Link, Tree, directory, to_disk, trees
from tests.unit.nix.vectors import by_id

ROOT = Path(__file__).parents[3]

_NASTY: dict[bytes, Tree] = {
    b"\xff\xfe not utf-8": File(b"x"),
    b"-rf": File(b"dash", executable=True),
    b"a" * 255: Link(b"/does/not/exist"),
    b"a": Dir(()),
    b"a-b": File(b"sorts between a and a/"),
    b"absolute": Link(b"/etc/passwd"),
    b"dir": Dir(((b".keep", File(b"")), (b"up", Link(b"..")))),
    b"empty": File(b""),
    b"empty-executable": File(b"", executable=True),
    b"line\nbreak": File(b"1234567"),
    b"padding": File(b"12345678"),
    b"target of bytes": Link(b"\xc3\x28\n"),
}
NASTY = Dir(tuple(sorted(_NASTY.items())))


def in_castore(castore: Castore, source: Path) -> tuple[bytes, bytes, int]:
    """NAR as rendered from the castore, with the hash and the size that ingestion gave."""
    done = castore.add_tree(source)
    nar = nar_of(done.node, castore.blobs, castore.directories)
    return nar, done.nar_hash, done.nar_size


@given(trees)
def test_any_tree_renders_as_its_nar(tree: Tree) -> None:
    with temporary() as path, Castore.open(path / "castore") as castore:
        expected = naive_nar(tree)
        source = to_disk(tree, path / "source")
        assert in_castore(castore, source) == (
            expected,
            hashlib.sha256(expected).digest(),
            len(expected),
        )
        castore.check()


@pytest.mark.parametrize(
    "tree", [NASTY, Link(b"../nowhere"), File(b"#!", True), File(b""), Dir(())]
)
def test_nix_dumps_the_same(castore: Castore, tmp_path: Path, tree: Tree) -> None:
    source = to_disk(tree, tmp_path / "source")
    dump = subprocess.run(
        [require("nix-store"), "--dump", source], capture_output=True, check=True
    ).stdout
    assert in_castore(castore, source) == (dump, hashlib.sha256(dump).digest(), len(dump))


def test_the_complicated_tree_of_snix(castore: Castore, tmp_path: Path) -> None:
    done = castore.add_tree(to_disk(COMPLICATED, tmp_path / "source"))
    assert isinstance(done.node, DirectoryNode)
    assert done.node.digest.hex().startswith("424a7f6ce08d805d")
    assert done.node.size == 8
    expected = by_id("nar/complicated")["output"]
    assert done.nar_size == expected["size"]
    assert done.nar_hash.hex() == expected["sha256_hex"]


_SIZES = [
    *(PACKED_MAX + by for by in (-1, 0)),
    *(LARGE + by for by in (-1, 0, 1)),
    3 * CHUNK,
    3 * CHUNK + 4096,
    3 * CHUNK + 4097,
    40 * CHUNK + 5,
]


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("executable", [False, True])
def test_files_of_every_size(castore: Castore, tmp_path: Path, size: int, executable: bool) -> None:
    contents = hashlib.shake_128(b"%d" % size).digest(size)
    tree = directory(a=File(b"before"), b=File(contents, executable), c=File(b"after"))
    expected = naive_nar(tree)
    nar, nar_hash, nar_size = in_castore(castore, to_disk(tree, tmp_path / "source"))
    assert nar == expected
    assert (nar_hash, nar_size) == (hashlib.sha256(expected).digest(), len(expected))


def test_a_file_past_the_cache(castore: Castore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with open(source, "wb") as file:
        file.truncate(DIRECT_MIN + 5)
        file.seek(12345)
        file.write(b"something")
    done = castore.add_tree(source)
    head = naive_nar(File(b""))[:-24]  # without length, contents and the closing token
    expected = hashlib.sha256(head + (DIRECT_MIN + 5).to_bytes(8, "little"))
    expected.update(source.read_bytes() + bytes(3) + naive_nar(File(b""))[-16:])
    assert done.nar_hash == expected.digest()


def test_a_large_file_that_is_known_is_not_written_again(castore: Castore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 * CHUNK + 7))
    first = castore.add_tree(source)
    with castore.batch() as batch, file_limit(0):
        assert ingest_tree(batch, source) == first


@pytest.mark.parametrize("changed", [0, CHUNK + 1, 3 * CHUNK + 6])
def test_a_large_file_that_differs_from_a_known_one_of_its_size(
    castore: Castore, tmp_path: Path, changed: int
) -> None:
    contents = bytearray(os.urandom(3 * CHUNK + 7))
    source = tmp_path / "source"
    source.write_bytes(contents)
    first = castore.add_tree(source)
    contents[changed] ^= 1
    source.write_bytes(contents)
    nar, nar_hash, _ = in_castore(castore, source)
    assert nar == naive_nar(File(bytes(contents)))
    assert nar_hash == hashlib.sha256(nar).digest()
    assert nar_hash != first.nar_hash


def test_a_damaged_blob_does_not_pass_for_what_it_looks_like(
    damaged: Castore, tmp_path: Path
) -> None:
    contents = bytearray(os.urandom(2 * CHUNK))
    source = tmp_path / "source"
    source.write_bytes(contents)
    damaged.add_tree(source)
    [row] = damaged.blobs.rows()
    contents[5] ^= 1
    path = damaged.blobs.directory / row.name
    path.chmod(0o644)
    path.write_bytes(contents)
    source.write_bytes(contents)
    nar, _, _ = in_castore(damaged, source)
    assert nar == naive_nar(File(bytes(contents)))
    assert len(list(damaged.blobs.rows())) == 2


def test_equal_files_and_directories_are_stored_once(castore: Castore, tmp_path: Path) -> None:
    same = directory(
        empty=File(b""), file=File(b"x"), more=File(b"x", True), big=File(bytes(LARGE))
    )
    source = to_disk(directory(a=same, b=same, c=File(bytes(LARGE))), tmp_path / "source")
    castore.add_tree(source)
    assert len(castore.files()) == 1
    assert len(list(castore.blobs.rows())) == 3
    assert len(list(castore.directories.digests())) == 2


def test_only_the_execute_bit_of_the_owner_counts(castore: Castore, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for mode in (0o400, 0o411, 0o500, 0o6744, 0o777):
        path = tmp_path / "source" / f"{mode:o}"
        path.touch()
        path.chmod(mode)
    node = castore.add_tree(tmp_path / "source").node
    assert isinstance(node, DirectoryNode)
    found = castore.directories.get(node.digest)
    assert found
    executable = {
        name for name, node in found.entries if isinstance(node, FileNode) and node.executable
    }
    assert executable == {b"500", b"6744", b"777"}


def test_a_root_symlink_is_not_followed(castore: Castore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert castore.add_tree(tmp_path / "link").node == SymlinkNode(os.fsencode(tmp_path))


@pytest.mark.parametrize("kind", ["fifo", "socket"])
@pytest.mark.parametrize("below", [False, True])
def test_what_a_tree_cannot_hold_is_named(
    castore: Castore, tmp_path: Path, kind: str, below: bool
) -> None:
    source = tmp_path / "source"
    if below:
        (source / "dir").mkdir(parents=True)
    path = source / "dir" / "odd" if below else source
    if kind == "fifo":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
    with pytest.raises(CastoreError, match=f"{path} is a {kind}") as caught:
        castore.add_tree(source)
    assert caught.value.hint
    assert list(castore.blobs.rows()) == []


def test_a_device_is_refused(castore: Castore) -> None:
    with pytest.raises(CastoreError, match="/dev/null is a character device"):
        castore.add_tree("/dev/null")


def test_what_is_not_there_is_named(castore: Castore, tmp_path: Path) -> None:
    with pytest.raises(StoreAccessError, match=f"cannot read {tmp_path}/none: No such file"):
        castore.add_tree(tmp_path / "none")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_may_not_be_read_is_named(kind: str) -> None:
    # Root may read everything, and pytest's directories are closed to anybody else.
    with tempfile.TemporaryDirectory(prefix="eka-castore-") as name:
        place = Path(name)
        place.chmod(0o777)
        with unprivileged(), Castore.open(place / "castore") as castore:
            tree = directory(a=File(b"x"), secret=File(b"y"), z=Dir(()))
            source = to_disk(tree, place / "source")
            path = source / ("secret" if kind == "file" else "z")
            path.chmod(0)
            with pytest.raises(StoreAccessError, match=f"cannot read {path}: Permission denied"):
                castore.add_tree(source)
            path.chmod(0o755)


@pytest.mark.parametrize("path", ["/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_contents_that_are_not_as_long_as_announced(castore: Castore, path: str) -> None:
    # The kernel announces 0 and 4096 bytes for these.
    if not os.path.exists(path):
        lacking(f"no {path} here")
    with pytest.raises(CastoreError, match=f"{path} changed its size"):
        castore.add_tree(path)


class _Meddling(StreamHash):
    """Changes the file when the first of its large pieces has been read."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__()
        self._path = path
        self._new_size = size

    def update(self, data: object, done: object = None) -> None:
        if isinstance(data, memoryview):
            os.truncate(self._path, self._new_size)
        super().update(data, done)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [CHUNK, 3 * CHUNK + 1])
def test_a_large_file_that_changes_its_size_meanwhile(
    castore: Castore, tmp_path: Path, size: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(3 * CHUNK))
    with (
        castore.batch() as batch,
        _Meddling(source, size) as nar_hash,
        Intake(batch) as intake,
        TreeReader(
            os.fsencode(source),
            Assembly(batch),
            intake,
            nar_hash,
            NarRecorder(batch, intake.beside),
        ) as reader,
        pytest.raises(CastoreError, match=f"{source} changed its size"),
    ):
        reader.read()


def test_progress_tells_files_and_bytes(castore: Castore, tmp_path: Path) -> None:
    tree = directory(a=File(bytes(10)), b=File(bytes(2 * LARGE)), c=File(bytes(5)))
    source = to_disk(tree, tmp_path / "source")
    told: list[tuple[int, int]] = []
    castore.add(lambda batch: ingest_tree(batch, source, progress=lambda *done: told.append(done)))
    assert told == [(2, 2 * LARGE + 10), (3, 2 * LARGE + 15)]


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_number_of_jobs_makes_no_difference(
    castore: Castore, tmp_path: Path, jobs: int
) -> None:
    contents = [os.urandom(size) for size in (10, PACKED_MAX - 1, PACKED_MAX, 2 * LARGE)]
    entries = tuple((b"%d" % number, File(data)) for number, data in enumerate(contents))
    source = to_disk(Dir(entries), tmp_path / "source")
    done = castore.add(lambda batch: ingest_tree(batch, source, jobs=jobs))
    assert done.nar_hash == hashlib.sha256(naive_nar(Dir(entries))).digest()
    assert len(castore.files()) == 2
    assert len(list(castore.blobs.rows())) == 4


def test_no_thread_and_no_descriptor_is_left(castore: Castore, tmp_path: Path) -> None:
    tree = directory(a=File(bytes(PACKED_MAX)), b=File(bytes(3 * LARGE)), c=File(b""))
    source = to_disk(tree, tmp_path / "source")
    (source / "d").mkdir()
    os.mkfifo(source / "d" / "fifo")
    with castore.batch() as batch:
        # Opens a pack, which stays open.
        batch.add_blob(b"small")
        before = len(os.listdir("/proc/self/fd")), threading.active_count()
        with pytest.raises(CastoreError, match="is a fifo"):
            ingest_tree(batch, source)
        assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_trouble_in_another_thread_ends_the_ingestion(castore: Castore, tmp_path: Path) -> None:
    entries = tuple((b"%03d" % number, File(os.urandom(PACKED_MAX))) for number in range(100))
    source = to_disk(Dir(entries), tmp_path / "source")
    with (
        castore.batch() as batch,
        file_limit(0),
        pytest.raises(StoreAccessError, match="cannot write to the store"),
    ):
        ingest_tree(batch, source)


def test_a_very_deep_tree() -> None:
    add_deep_tree()


def add_deep_tree() -> None:
    with temporary() as path, Castore.open(path / "castore") as castore:
        with deep_tree(path / "deep", 4000) as source:
            done = castore.add_tree(source)
        assert isinstance(done.node, DirectoryNode)
        assert done.node.size == 2 * 4000
        nar = nar_of(done.node, castore.blobs, castore.directories)
        assert hashlib.sha256(nar).digest() == done.nar_hash
        assert castore.add_nar(nar) == done


def test_a_tree_that_no_nar_can_hold(castore: Castore) -> None:
    with (
        temporary() as path,
        deep_tree(path / "deep", MAX_DEPTH + 1, b"d") as source,
        pytest.raises(CastoreError, match=f"nested more than {MAX_DEPTH} deep"),
    ):
        castore.add_tree(source)


def test_a_very_large_directory(castore: Castore, tmp_path: Path) -> None:
    # Hard links to one file: quick to make, and 30 000 entries all the same.
    source = tmp_path / "source"
    source.mkdir()
    (source / "first").write_bytes(b"x")
    for number in range(30_000):
        os.link(source / "first", source / f"{number}")
    nar, nar_hash, _ = in_castore(castore, source)
    assert hashlib.sha256(nar).digest() == nar_hash
    assert len(list(castore.blobs.rows())) == 1


def test_a_flat_file(castore: Castore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"contents")
    path.chmod(0o755)
    (tmp_path / "link").symlink_to("file")
    expected = naive_nar(File(b"contents"))
    for source in (path, tmp_path / "link"):
        with castore.batch() as batch:
            node, content_hash, ingested = ingest_file(batch, source)
            castore.commit(batch)
        assert node == ingested.node
        assert not node.executable
        assert content_hash == hashlib.sha256(b"contents").digest()
        assert ingested.nar_hash == hashlib.sha256(expected).digest()
        assert ingested.nar_size == len(expected)


def test_a_large_flat_file(castore: Castore, tmp_path: Path) -> None:
    contents = os.urandom(5 * CHUNK + 3)
    (tmp_path / "file").write_bytes(contents)
    with castore.batch() as batch:
        node, content_hash, ingested = ingest_file(batch, tmp_path / "file")
        castore.commit(batch)
    assert content_hash == hashlib.sha256(contents).digest()
    assert ingested.nar_hash == hashlib.sha256(naive_nar(File(contents))).digest()
    assert nar_of(node, castore.blobs, castore.directories) == naive_nar(File(contents))


def test_a_directory_is_no_flat_file(castore: Castore, tmp_path: Path) -> None:
    with castore.batch() as batch, pytest.raises(CastoreError, match="is a directory"):
        ingest_file(batch, tmp_path)


_ADDER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.unit.castore.local import Castore

with Castore.open(Path(sys.argv[2])) as castore:
    print("ready", flush=True)
    sys.stdin.readline()
    print(castore.add_tree(sys.argv[3]))
"""


def test_processes_may_add_the_same_tree_at_once(castore: Castore, tmp_path: Path) -> None:
    sizes = [*range(0, 200), *(PACKED_MAX + 7 * by for by in range(20)), 2 * LARGE, 3 * LARGE]
    entries = tuple((b"%03d" % number, File(os.urandom(size))) for number, size in enumerate(sizes))
    tree = directory(a=Dir(entries), b=Dir(entries[::-1][::-1]), c=NASTY)
    source = to_disk(tree, tmp_path / "source")
    command: list[str | Path] = [sys.executable, "-c", _ADDER, ROOT, castore.root, source]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(3)]
    for process in running:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
    for process in running:
        assert process.stdin
        process.stdin.write(b"go\n")
        process.stdin.flush()
    results = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    done = castore.add_tree(source)
    assert results == {f"{done}\n".encode()}
    # No blob twice, and no file that no row mentions.
    assert castore.files() == sorted(row.name for row in castore.blobs.rows() if row.name)


@given(trees)
def test_a_second_ingestion_adds_nothing(tree: Tree) -> None:
    with temporary() as path, Castore.open(path / "castore") as castore:
        source = to_disk(tree, path / "source")
        first = castore.add_tree(source)
        before = castore.files(), castore.pack_sizes(), list(castore.blobs.rows())
        assert castore.add_tree(source) == first
        assert (castore.files(), castore.pack_sizes(), list(castore.blobs.rows())) == before


def test_a_file_that_is_given_away_becomes_the_blob(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(b"large" * LARGE)
    (source / "again").write_bytes(b"large" * LARGE)
    (source / "middle").write_bytes(b"m" * PACKED_MAX)
    (source / "small").write_bytes(b"small")
    with Castore.open(tmp_path / "castore") as castore:
        expected = castore.add_tree(source)
    with Castore.open(tmp_path / "other") as castore:
        adopted = castore.add(lambda batch: ingest_tree(batch, source, adopt=True))
        assert adopted == expected
        statuses = [(source / name).stat() for name in ("large", "again")]
        assert sorted(status.st_nlink for status in statuses) == [1, 2]
        assert (source / "middle").stat().st_nlink == 2
        shutil.rmtree(source)
        castore.check()


def test_a_file_with_room_to_spare_is_copied(tmp_path: Path) -> None:
    """Nobody would account for it, and nothing would ever give it back."""
    source = tmp_path / "source"
    source.write_bytes(b"large" * LARGE)
    done = subprocess.run(
        [require("fallocate"), "--keep-size", "--length", "64MiB", source],
        capture_output=True,
        check=False,
    )
    if done.returncode or source.stat().st_blocks * 512 < 64 << 20:
        lacking(f"this file system reserves no room: {done.stderr.decode()}")
    with Castore.open(tmp_path / "castore") as castore:
        castore.add(lambda batch: ingest_tree(batch, source, adopt=True))
        assert source.stat().st_nlink == 1
        castore.check()


def test_many_large_files_on_a_slow_disk_need_few_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(60):
        (source / str(number)).write_bytes(b"%02d" % number * (LARGE // 2))
    # As if the disk took nothing until all that could be queued was.
    queued, left = threading.Event(), 60 * LARGE

    def scan(data: bytes | bytearray | memoryview) -> None:
        nonlocal left
        left -= len(data)
        if left <= 0:
            queued.set()

    monkeypatch.setattr(intake, "begin_writing", lambda fd: queued.wait())
    with Castore.open(tmp_path / "castore") as castore:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = set(map(int, os.listdir("/proc/self/fd")))
        few = next(islice((fd for fd in count() if fd not in used), 40, None))
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        try:
            castore.add(lambda batch: ingest_tree(batch, source, scan=scan, adopt=True))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        castore.check()


def test_a_file_with_attributes_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"large" * LARGE)
    try:
        os.setxattr(source, "user.overlay.redirect", b"/elsewhere")
    except OSError as error:
        lacking(f"no extended attributes here: {error.strerror}")
    with Castore.open(tmp_path / "castore") as castore:
        castore.add(lambda batch: ingest_tree(batch, source, adopt=True))
        assert source.stat().st_nlink == 1
        castore.check()
