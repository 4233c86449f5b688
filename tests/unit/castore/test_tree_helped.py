"""Trees that are read with the help of other processes: as without it, errors included."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given

from eka_runtime.castore import crew as crew_module
from eka_runtime.castore import tree as tree_module
from eka_runtime.castore.blobs import PACKED_MAX
from eka_runtime.castore.crew import Crew
from eka_runtime.castore.ingest import ingest_tree
from eka_runtime.castore.intake import LARGE
from eka_runtime.castore.tree_walk import GROUP, Enter, Files, GroupReader, Leave, Other, walk
from eka_runtime.errors import CastoreError, HostError, StoreAccessError
from tests.stores import unprivileged
from tests.unit.castore.local import Castore, naive_nar, temporary
from tests.unit.castore.test_hashing import children
from tests.unit.castore.test_ingest import NASTY, add_deep_tree, in_castore
from tests.unit.nix.trees import Dir, File, Link, Tree, directory, to_disk, trees


@pytest.fixture(autouse=True, scope="module")
def helped() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_module, "HELPED_FROM", 1)
        patch.setattr(tree_module, "may_fork", lambda: True)
        yield


def _same(castore: Castore, tree: Tree, place: Path) -> None:
    expected = naive_nar(tree)
    found = in_castore(castore, to_disk(tree, place))
    assert found == (expected, hashlib.sha256(expected).digest(), len(expected))


@given(trees)
def test_any_tree(tree: Tree) -> None:
    with temporary() as path, Castore.open(path / "castore") as castore:
        _same(castore, tree, path / "source")
        castore.check()


def test_odd_names_and_more_files_than_a_group_has(castore: Castore, tmp_path: Path) -> None:
    many = tuple((b"%04d" % number, File(b"%d" % number)) for number in range(3 * GROUP + 1))
    links = tuple((b"%04d-" % number, Link(b"x")) for number in range(0, 3 * GROUP, 50))
    inside = Dir(tuple(sorted((*many, *links, (b"0100.d", NASTY)))))
    _same(castore, directory(a=NASTY, b=inside, c=Dir(())), tmp_path / "source")


def test_files_of_every_size_and_more_than_a_slot_has_room_for(
    castore: Castore, tmp_path: Path
) -> None:
    sizes = [0, 1, PACKED_MAX - 1, PACKED_MAX, LARGE - 1, LARGE, 3 * LARGE, *[LARGE - 9] * 5]
    tree = Dir(
        tuple(
            (b"%03d" % number, File(os.urandom(size), executable=number % 2 == 0))
            for number, size in enumerate(sizes)
        )
    )
    _same(castore, tree, tmp_path / "source")
    castore.check()


def test_a_very_deep_tree() -> None:
    add_deep_tree()


def test_large_files_that_are_given_away(tmp_path: Path) -> None:
    with Castore.open(tmp_path / "castore") as castore:
        source = to_disk(directory(a=File(b"a"), b=File(bytes(PACKED_MAX))), tmp_path / "source")
        castore.add(lambda batch: ingest_tree(batch, source, adopt=True))
        assert (source / "b").stat().st_nlink == 2
        castore.check()


def test_what_may_not_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o777)
        with unprivileged(), Castore.open(place / "castore") as castore:
            source = to_disk(directory(a=File(b"x"), b=File(b"y"), c=Dir(())), place / "source")
            for path in (source / "b", source / "c"):
                path.chmod(0)
                with pytest.raises(StoreAccessError, match=f"cannot read {path}: Permission"):
                    castore.add_tree(source)
                path.chmod(0o755)


def test_what_a_tree_cannot_hold_leaves_no_process_and_no_descriptor(
    castore: Castore, tmp_path: Path
) -> None:
    source = to_disk(directory(a=File(b"x"), b=directory(c=File(b"y"))), tmp_path / "source")
    os.mkfifo(source / "b" / "fifo")
    with castore.batch() as batch:
        batch.add_blob(b"small")
        before = len(os.listdir("/proc/self/fd")), children()
        with pytest.raises(CastoreError, match=f"{source}/b/fifo is a fifo"):
            ingest_tree(batch, source)
        assert (len(os.listdir("/proc/self/fd")), children()) == before


@pytest.mark.usefixtures("no_processes")
def test_where_no_process_is_to_be_had_there_is_no_help(castore: Castore, tmp_path: Path) -> None:
    _same(castore, NASTY, tmp_path / "source")


@pytest.mark.usefixtures("no_processes", "no_threads")
def test_where_no_thread_is_to_be_had_small_files_go_without(
    castore: Castore, tmp_path: Path
) -> None:
    files = [(b"%03d" % number, File(os.urandom(PACKED_MAX - 1))) for number in range(40)]
    _same(castore, Dir(tuple(files)), tmp_path / "source")


def test_the_steps_of_a_walk(tmp_path: Path) -> None:
    tree = directory(a=File(b""), b=File(b""), c=directory(d=File(b"")), e=Link(b"a"), f=File(b""))
    source = os.fsencode(to_disk(tree, tmp_path / "source"))
    assert list(walk(source)) == [
        Enter(b""),
        Files((), (b"a", b"b")),
        Enter(b"c"),
        Files((b"c",), (b"d",)),
        Leave(),
        Other(b"e", stat.S_IFLNK),
        Files((), (b"f",)),
        Leave(),
    ]


@pytest.mark.parametrize("odd", ["missing", "symlink", "fifo", "large", "through a symlink"])
def test_a_helper_leaves_what_is_odd_to_its_parent(tmp_path: Path, odd: str) -> None:
    place = tmp_path / "source" / "d"
    place.mkdir(parents=True)
    (place / "good").write_bytes(b"12345")
    file = place / "odd"
    if odd == "symlink":
        file.symlink_to("good")
    elif odd == "fifo":
        os.mkfifo(file)
    elif odd == "large":
        file.write_bytes(bytes(100))
    elif odd == "through a symlink":
        file.write_bytes(b"secret")
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    read = GroupReader(os.fsencode(tmp_path / "source"), 100)
    slot = bytearray(1 << 12)
    good, missing = read(Files((b"d",), (b"good", b"odd")), memoryview(slot))
    assert missing is None
    if odd == "through a symlink":
        assert good is None
        assert not any(slot)
    else:
        assert good is not None
        assert slot[good[3] : good[3] + good[1]] == b"12345"


def test_answers_come_in_the_order_of_the_tasks() -> None:
    def work(task: int, slot: memoryview) -> int:
        slot[:2] = task.to_bytes(2, "little")
        return -task

    before = children()
    with Crew(work, 3, 64) as crew:
        found = [(answer, bytes(slot[:2])) for answer, slot in crew.map(range(500))]
    assert found == [(-task, task.to_bytes(2, "little")) for task in range(500)]
    assert children() == before


def test_small_pipes_make_nobody_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who has many of them: pipe(7), pipe-user-pages-soft."""

    def small() -> tuple[BinaryIO, BinaryIO]:
        reading, writing = pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        return reading, writing

    pipe = crew_module._pipe
    monkeypatch.setattr(crew_module, "_pipe", small)
    long = "x" * 20_000
    with Crew(lambda task, slot: task + long, 2, 64) as crew:
        assert sum(answer == long * 2 for answer, _ in crew.map([long] * 100)) == 100


def _fail(task: int, slot: memoryview) -> None:
    raise CastoreError(f"task {task}")


def test_an_error_of_a_helper_is_raised() -> None:
    with Crew(_fail, 2, 64) as crew, pytest.raises(CastoreError, match="task 0"):
        list(crew.map([0, 1]))


def _die(task: int, slot: memoryview) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("tasks", [1, 1000])
def test_a_helper_that_is_killed_is_an_error(tasks: int) -> None:
    before = children()
    with Crew(_die, 2, 64) as crew, pytest.raises(HostError, match="has ended"):
        list(crew.map(range(tasks)))
    assert children() == before
