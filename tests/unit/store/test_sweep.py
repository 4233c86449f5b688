"""What collections remove for good: what is dead, what crashes left, and never what is in use."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from eka_runtime.castore import packs
from eka_runtime.castore.batch import Batch
from eka_runtime.castore.ingest import ingest_nar
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode
from eka_runtime.castore.removal import remove_tree
from eka_runtime.castore.trees import leaves_first
from eka_runtime.errors import StoreAccessError
from eka_runtime.nix.tokens import NarReader
from eka_runtime.store import gc, sweep
from eka_runtime.store.gc import LOOSE_SECONDS, collect, preview
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.roots import Root
from eka_runtime.store.store import Store
from eka_runtime.store.uploads import put_blob, put_directories, put_path_info
from eka_runtime.view.bind import BindView
from tests.crash import Print, die_at, nursery
from tests.stores import assert_clean, problems
from tests.unit.nix.trees import File, Tree, directory, to_nar
from tests.unit.store.graphs import LARGE, SMALL, add, digests, held, needed, path, read

NESTED = directory(sub=directory(s=File(SMALL[1])), l=File(LARGE[0]))
TREE = directory(s=File(SMALL[1]), l=File(LARGE[0]), x=File(SMALL[1], executable=True))


def _plant(store: Store) -> list[Path]:
    """What crashes leave, and some more that nobody needs."""
    layout = store.layout
    layout.bind_view.mkdir(parents=True, exist_ok=True)
    layout.twins.mkdir(parents=True, exist_ok=True)
    (layout.blobs / "zz").mkdir(exist_ok=True)
    files = [
        layout.blobs / "zz" / "0123456789abcdfghij",
        layout.packs / "0123456789ab",
        layout.tmp / ("0123456789abcdef" * 2),
        layout.tmp / "format-0123456789abcdef",
        layout.root / "db.sqlite.0123456789abcdef",
    ]
    for file in files:
        file.write_bytes(b"left by a crash")
    checkouts = [
        layout.bind_view / ".new-0123",
        layout.bind_view / ".old-4567",
        layout.bind_view / f"{'a' * 32}-of-no-path",
        layout.twins / ".new-0123",
    ]
    for checkout in checkouts:
        (checkout / "sub").mkdir(parents=True)
        (checkout / "sub" / "file").write_bytes(b"left by a crash")
        (checkout / "sub").chmod(0o555)
    return files + checkouts


def test_leftovers_go_when_nobody_from_before_is_at_work(store: Store) -> None:
    info = add(store, "p", TREE)
    store.roots.add(Root("p", "named", b"", (info.path,)))
    BindView(store).check_out([info])
    planted = _plant(store)
    with Store.open(store.root):
        collect(store)
        assert all(map(os.path.lexists, planted))
    collect(store)
    assert not any(map(os.path.lexists, planted))
    assert held(store) == needed(store)._replace(checkouts={info.path.base})
    assert read(store, info)


def test_leftovers_of_those_who_came_meanwhile_stay(store: Store) -> None:
    add(store, "p", TREE)
    planted: list[Path] = []
    collect(store, report=lambda path: planted.extend(_plant(store)))
    assert planted
    assert all(map(os.path.lexists, planted))
    collect(store)
    assert not any(map(os.path.lexists, planted))


@pytest.mark.parametrize(
    "where", ["blobs", "blobs/zz", "packs", "tmp", "view/bind/nix/store", "view/twin"]
)
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_does_not_belong_there_does_no_harm(store: Store, where: str, kind: str) -> None:
    info = add(store, "p", TREE)
    BindView(store).check_out([info])
    strange = store.root / where / "strange"
    strange.parent.mkdir(exist_ok=True)
    if kind == "file":
        strange.write_bytes(b"strange")
    else:
        (strange / "sub").mkdir(parents=True)
    assert collect(store).paths == 1
    assert collect(store).paths == 0
    # Only what has the name of something of ours is ever removed.
    remove_tree(strange)


@pytest.mark.parametrize(
    "where", ["blobs", "blobs/zz", "packs", "tmp", "view/bind/nix/store", "view/twin"]
)
def test_nothing_behind_a_link_is_ever_removed(store: Store, tmp_path: Path, where: str) -> None:
    decoy = tmp_path / "decoy"
    (decoy / "sub").mkdir(parents=True)
    for file in (decoy / "file", decoy / "sub" / "file"):
        file.write_bytes(b"somebody else's")
    strange = store.root / where / "strange"
    strange.parent.mkdir(parents=True, exist_ok=True)
    strange.symlink_to(decoy)
    for _ in range(2):
        add(store, "p", TREE)
        assert collect(store).paths == 1
        for file in (decoy / "file", decoy / "sub" / "file"):
            assert file.read_bytes() == b"somebody else's"
    strange.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "where", ["blobs", "packs", "tmp", "view", "view/bind/nix/store", "view/twin"]
)
def test_a_part_of_the_store_that_is_a_link_is_refused(
    store: Store, tmp_path: Path, where: str
) -> None:
    BindView(store).check_out([add(store, "p", TREE)])
    part, moved = store.root / where, tmp_path / "moved"
    part.rename(moved)
    part.symlink_to(moved)
    with pytest.raises(StoreAccessError, match="is a symbolic link"):
        collect(store)
    assert store.paths.count() == 1
    part.unlink()
    moved.rename(part)


def test_a_store_of_somebody_else_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, "p", TREE)
    monkeypatch.setattr(os, "geteuid", lambda: store.root.stat().st_uid + 1)
    with pytest.raises(StoreAccessError, match="belongs to user") as caught:
        collect(store)
    assert "sudo -u" in (caught.value.hint or "")
    assert store.paths.count() == 1


def _tail(store: Store) -> tuple[Path, int]:
    """The only pack, with bytes at its end that no row mentions; and its size without them."""
    store.blobs.appender.reset()
    [name] = os.listdir(store.layout.packs)
    pack = store.layout.packs / name
    size = pack.stat().st_size
    with open(pack, "ab") as file:
        file.write(b"never committed" * 1000)
    return pack, size


def test_the_end_of_a_pack_that_was_never_committed(store: Store) -> None:
    info = add(store, "p", TREE)
    store.roots.add(Root("p", "named", b"", (info.path,)))
    pack, size = _tail(store)
    with Store.open(store.root):
        collect(store)
        assert pack.stat().st_size > size
    collect(store)
    assert pack.stat().st_size == size
    assert read(store, info)


def _taken(batch: Batch, name: str, tree: Tree) -> PathInfo:
    """What has to be committed with the batch for the path to be there."""
    reader = NarReader(io.BytesIO(to_nar(tree)).read)
    return PathInfo(path(name), *ingest_nar(batch, reader))


def _forget_epochs(store: Store) -> None:
    """What is there was wanted by nobody who is still at work."""
    with store.database.transaction() as conn:
        conn.execute("update path set epoch = 0")


@pytest.fixture
def dying(store: Store) -> Iterator[Store]:
    """Of its one pack a part is used, and a part was marked; it is swept when this one closes."""
    add(store, "p", directory(a=File(SMALL[1]), b=File(SMALL[2])))
    store.roots.add(Root("q", "named", b"", (add(store, "q", File(SMALL[3])).path,)))
    _forget_epochs(store)
    store.close()
    with Store.open(store.root) as before:
        with Store.open(store.root) as collector:
            assert collect(collector).pending == len(SMALL[1] + SMALL[2])
        yield before


def test_a_pack_that_is_being_appended_to(dying: Store) -> None:
    with Store.open(dying.root) as writer, writer.batch() as batch:
        info = _taken(batch, "r", directory(c=File(b"c"), d=File(b"d")))
        batch.sync()
        dying.close()
        with Store.open(writer.root) as collector:
            assert collect(collector).freed == len(SMALL[1] + SMALL[2])
        assert len(os.listdir(writer.layout.packs)) == 1
        writer.commit(batch, info)
        assert read(writer, info)


def test_a_pack_that_became_full_before_the_commit(
    dying: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a large addition goes into other packs; nothing is committed yet."""
    monkeypatch.setattr(packs, "PACK_MAX", 1 << 20)
    with Store.open(dying.root) as writer, writer.batch() as batch:
        files = {f"f{number}": File(os.urandom(60_000)) for number in range(60)}
        info = _taken(batch, "r", directory(**files))
        assert len(os.listdir(writer.layout.packs)) > 1
        dying.close()
        with Store.open(writer.root) as collector:
            assert collect(collector).freed == len(SMALL[1] + SMALL[2])
        writer.commit(batch, info)
        assert read(writer, info)


def test_what_comes_right_before_a_pack_is_reclaimed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows must be read when nobody can append any more, not before."""
    add(store, "p", directory(a=File(SMALL[1]), b=File(SMALL[2])))
    store.roots.add(Root("q", "named", b"", (add(store, "q", File(SMALL[3])).path,)))
    store.blobs.appender.reset()
    added: list[PathInfo] = []
    real: Callable[..., int | None] = packs.reclaim

    def late(file: Path, *rest: object) -> int | None:
        if not added:
            with Store.open(store.root) as other:
                added.append(add(other, "r", File(b"came late")))
        return real(file, *rest)

    monkeypatch.setattr(sweep, "reclaim", late)
    collect(store)
    assert len(os.listdir(store.layout.packs)) == 1
    assert read(store, added[0])


def _space(store: Store) -> int:
    return sum(place.stat().st_blocks * 512 for place in store.layout.packs.iterdir())


def test_holes_that_had_to_wait_are_made_later(store: Store) -> None:
    """A pack was in use when its blobs went; nothing of it goes afterwards."""
    noise = os.urandom(60_000)
    add(store, "p", File(noise))
    last = add(store, "q", File(noise[::-1]))
    store.roots.add(Root("q", "named", b"", (last.path,)))
    _forget_epochs(store)
    before = _space(store)
    with Store.open(store.root) as other:
        # `store` still appends to the pack, and has no need of what goes.
        store.hold.close()
        assert collect(other).freed == 60_000
    store.blobs.appender.reset()
    collect(store)
    os.sync()
    assert _space(store) <= before - 50_000
    assert read(store, last)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Store]:
    """Has `p`, and sends it piece by piece."""
    with Store.open(tmp_path / "client") as far:
        add(far, "p", NESTED)
        yield far


def _upload(client: Store, store: Store) -> list[Directory]:
    for row in client.blobs.rows():
        with client.blobs.open_row(row) as reader:
            put_blob(store, reader.read)
    node = client.info(path("p")).node
    assert isinstance(node, DirectoryNode)
    sent = list(leaves_first(node.digest, client.directories))
    put_directories(store, sent)
    return sent


def _pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.time()
    monkeypatch.setattr(gc.time, "time", lambda: now + seconds)  # type: ignore[attr-defined]


def test_loose_contents_are_spared_for_a_day(
    store: Store, client: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = _upload(client, store)
    assert len(sent) == 2
    for seconds in (0, LOOSE_SECONDS - 60):
        _pass_time(monkeypatch, seconds)
        assert preview(store) == collect(store) == (0, 0, 0, 0, 0)
        assert held(store).blobs == held(client).blobs
        assert held(store).directories == {one.digest for one in sent}
    _pass_time(monkeypatch, 120)
    assert collect(store)[:4] == (0, 2, len(SMALL[1] + LARGE[0]), 0)
    assert held(store) == needed(store)


def test_loose_contents_become_a_path(
    store: Store, client: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _upload(client, store)
    collect(store)
    info = put_path_info(store, client.info(path("p")))
    store.roots.add(Root("p", "named", b"", (info.path,)))
    _pass_time(monkeypatch, 2 * LOOSE_SECONDS)
    assert collect(store)[:4] == (0, 0, 0, 0)
    assert read(store, info)
    store.roots.remove("p")
    assert collect(store)[:3] == (1, 2, len(SMALL[1] + LARGE[0]))


def test_what_was_known_is_spared_when_it_is_sent_again(store: Store, client: Store) -> None:
    """The client was told that it is durable, and sends the path info next."""
    add(store, "other", directory(nested=NESTED))
    _upload(client, store)
    _forget_epochs(store)
    assert collect(store).paths == 1
    info = put_path_info(store, client.info(path("p")))
    assert read(store, info)


def work(arguments: list[str], tell: Print) -> None:
    """Collects, and dies at the change of the given number."""
    with Store.open(Path(arguments[0])) as store:
        die_at(int(arguments[1]), store.database.connection)
        collect(store)


def test_what_another_one_was_faster_with_is_spared_as_well(store: Store) -> None:
    """Its row is not ours, and loses its path before ours comes."""
    contents = SMALL[1], LARGE[0]
    with store.batch() as batch:
        blobs = [batch.add_blob(data) for data in contents]
        node = batch.add_directory(Directory(((b"a", FileNode(blobs[0], len(contents[0]))),)))
        batch.sync()
        with Store.open(store.root) as other:
            add(other, "other", directory(a=File(contents[0]), b=File(contents[1])))
            add(other, "same", directory(a=File(contents[0])))
        store.commit_loose(batch)
    _forget_epochs(store)
    assert collect(store).paths == 2
    assert all(map(store.blobs.is_alive, blobs))
    assert store.directories.is_alive(node.digest)


def _prepare(root: Path) -> list[PathInfo]:
    """Some to keep and some to collect, which share contents; with checkouts and leftovers."""
    with Store.open(root) as store:
        shared = {"s": File(SMALL[5]), "l": File(LARGE[2]), "x": File(SMALL[5], True)}
        for number in range(3):
            own = directory(s=File(SMALL[number]), l=File(LARGE[number % 2]))
            add(store, f"p{number}", directory(own=own, **shared), [path("p0")] * bool(number))
        last = add(store, "last", directory(own=File(b"x" * 20_000), **shared))
        BindView(store).check_out(store.paths.all())
        store.roots.add(Root("last", "named", b"", (last.path,)))
        _tail(store)
        _plant(store)
        return [last]


def test_a_collection_that_is_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    with nursery("tests.unit.store.test_sweep") as children:
        for number in count():
            root = tmp_path / str(number)
            [kept] = _prepare(root)
            status = children.start(root, str(number)).wait()
            if not status:
                break
            assert status == -9
            with Store.open(root) as store:
                assert problems(store) == []
                assert read(store, kept)
                collect(store)
                found = held(store)
                assert found == needed(store)._replace(checkouts={kept.path.base})
                assert found.blobs == digests([SMALL[5], LARGE[2], b"x" * 20_000])
                assert read(store, kept)
                assert (store.layout.bind_view / kept.path.base / "s").read_bytes() == SMALL[5]
            assert_clean(root)
        # There were many chances to die.
        assert number > 20
