"""Lost contents come back from wherever they still are, and what nobody has stays lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eka_runtime.castore.blobs import BlobRow
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.directories import walk
from eka_runtime.castore.node import DirectoryNode
from eka_runtime.errors import ServiceError
from eka_runtime.store.addresses import Addresses
from eka_runtime.store.composition import Services, open_services, services_of
from eka_runtime.store.copying import missing_there
from eka_runtime.store.outgoing import copy_to
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.repair import repair
from eka_runtime.store.store import Store
from eka_runtime.store.verify import Lost
from eka_runtime.view.bind import BindView
from tests.unit.castore import harm
from tests.unit.nix.trees import File, directory, to_nar
from tests.unit.store.graphs import LARGE, SMALL, add, path, read

TREE = directory(
    sub=directory(deep=directory(s=File(SMALL[1]), l=File(LARGE[0]))),
    s=File(SMALL[2]),
    both=File(SMALL[3]),
    exe=File(SMALL[3], executable=True),
    tool=File(LARGE[1], executable=True),
    text=File(LARGE[1]),
)
NONE = Lost(frozenset(), frozenset())

Harm = Callable[[Store, PathInfo], None]


def _rows(store: Store, *, packed: bool) -> list[BlobRow]:
    return [row for row in store.blobs.rows() if bool(row.name) != packed]


def _each(work: Callable[..., None], *, packed: bool) -> Harm:
    def harmful(store: Store, info: PathInfo) -> None:
        for row in _rows(store, packed=packed):
            work(store.blobs, row)

    return harmful


def _shorten_pack(store: Store, info: PathInfo) -> None:
    harm.shorten(store.blobs, _rows(store, packed=True)[0])


def _remove_pack(store: Store, info: PathInfo) -> None:
    harm.remove(store.blobs, _rows(store, packed=True)[0])


def _forget_blobs(store: Store, info: PathInfo) -> None:
    with store.database.transaction() as conn:
        conn.execute("delete from blob")


def _below(store: Store, info: PathInfo) -> list[B3Digest]:
    """The directories, root first."""
    assert isinstance(info.node, DirectoryNode)
    return [directory.digest for _, directory in walk(info.node, store.directories)]


def _forget_directories(store: Store, info: PathInfo) -> None:
    with store.database.transaction() as conn:
        conn.execute("delete from directory")


def _forget_the_lowest(store: Store, info: PathInfo) -> None:
    with store.database.transaction() as conn:
        conn.execute("delete from directory where digest = ?", (_below(store, info)[-1],))


def _damage_directories(store: Store, info: PathInfo) -> None:
    with store.database.transaction() as conn:
        conn.execute("update directory set data = cast(data || x'00' as blob)")


def _swap_directories(store: Store, info: PathInfo) -> None:
    """Decodable, but others."""
    root, *_, lowest = _below(store, info)
    with store.database.transaction() as conn:
        conn.execute(
            "update directory set data = (select data from directory where digest = ?)"
            " where digest = ?",
            (lowest, root),
        )


def _everything(store: Store, info: PathInfo) -> None:
    _each(harm.change, packed=True)(store, info)
    _each(harm.shorten, packed=False)(store, info)
    _forget_directories(store, info)


# In what others have, all of these are whole; a checkout shares the inodes of large files.
IN_PLACE: dict[str, Harm] = {
    "changed files": _each(harm.change, packed=False),
    "shortened files": _each(harm.shorten, packed=False),
    "everything": _everything,
}
HARMS: dict[str, Harm] = {
    "changed in packs": _each(harm.change, packed=True),
    "shortened pack": _shorten_pack,
    "missing pack": _remove_pack,
    "missing files": _each(harm.remove, packed=False),
    "missing rows": _forget_blobs,
    "missing directories": _forget_directories,
    "a missing directory": _forget_the_lowest,
    "damaged directories": _damage_directories,
    "exchanged directories": _swap_directories,
}
ALL = HARMS | IN_PLACE


@pytest.fixture
def info(store: Store) -> PathInfo:
    return add(store, "p", TREE)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Services]:
    """Another store of ours that has the path."""
    with Store.open(tmp_path / "far") as other:
        add(other, "p", TREE)
        yield services_of(other)


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[Services]:
    """snix's objectstore, which gives out trees by their roots only."""
    url = f"objectstore+file://{tmp_path}/objects"
    with (
        Store.open(tmp_path / "source") as source,
        open_services(Addresses(url, url, url)) as services,
    ):
        copy_to(source, services, missing_there(source, services, [add(source, "p", TREE).path]))
        yield services


def _lost(store: Store) -> Lost:
    return store.verify(deep=True, report=lambda problem: None).lost


def _harmed(store: Store, info: PathInfo, harmful: Harm) -> Lost:
    # Nobody damages the pack that he is just appending to.
    store.blobs.appender.reset()
    harmful(store, info)
    lost = _lost(store)
    assert lost.blobs or lost.directories
    return lost


def _is_whole_again(store: Store, info: PathInfo) -> None:
    """Also for others, who see only what is durable; rows lead to what was written now."""
    with Store.open(store.root) as other:
        assert _lost(other) == NONE
        assert read(other, info) == to_nar(TREE)
        view = BindView(other)
        view.check_out([info])
        checkout = other.layout.bind_view / info.path.base
        assert (checkout / "sub" / "deep" / "l").read_bytes() == LARGE[0]
        assert (checkout / "exe").read_bytes() == SMALL[3]
        assert os.access(checkout / "tool", os.X_OK)
        assert _lost(other) == NONE


@pytest.mark.parametrize("kind", ALL)
def test_from_another_store(store: Store, info: PathInfo, far: Services, kind: str) -> None:
    lost = _harmed(store, info, ALL[kind])
    places = {row.digest: row for row in store.blobs.rows()}
    assert repair(store, lost, [far]) == len(lost.blobs) + len(lost.directories)
    for row in store.blobs.rows():
        assert (places.get(row.digest) != row) == (row.digest in lost.blobs)
    _is_whole_again(store, info)


@pytest.mark.parametrize("kind", ALL)
def test_from_an_objectstore(store: Store, info: PathInfo, objects: Services, kind: str) -> None:
    lost = _harmed(store, info, ALL[kind])
    repair(store, lost, [objects])
    _is_whole_again(store, info)


@pytest.mark.parametrize("kind", HARMS)
def test_from_a_checkout(store: Store, info: PathInfo, kind: str) -> None:
    BindView(store).check_out([info])
    lost = _harmed(store, info, HARMS[kind])
    assert repair(store, lost) == len(lost.blobs) + len(lost.directories)
    _is_whole_again(store, info)


@pytest.mark.parametrize("kind", IN_PLACE)
def test_a_checkout_that_shares_the_damage(
    store: Store, info: PathInfo, far: Services, kind: str
) -> None:
    BindView(store).check_out([info])
    lost = _harmed(store, info, IN_PLACE[kind])
    assert repair(store, lost) < len(lost.blobs) + len(lost.directories)
    # It is out of the way, so that nobody is shown what is damaged.
    assert not (store.layout.bind_view / info.path.base).exists()
    repair(store, _lost(store), [far])
    _is_whole_again(store, info)


@pytest.mark.parametrize("kind", ALL)
def test_from_nobody(tmp_path: Path, kind: str) -> None:
    with Store.open(tmp_path / "broken") as store, Store.open(tmp_path / "empty") as empty:
        info = add(store, "p", TREE)
        lost = _harmed(store, info, ALL[kind])
        assert repair(store, lost, [services_of(empty)]) == 0
        assert _lost(store) == lost
        assert list(store.paths.all()) == [info]


def test_from_several_that_have_a_part_each(store: Store, info: PathInfo, tmp_path: Path) -> None:
    lost = _harmed(store, info, _everything)
    with Store.open(tmp_path / "one") as one, Store.open(tmp_path / "two") as two:
        add(one, "x", directory(a=File(SMALL[1]), b=File(LARGE[0]), c=File(SMALL[2])))
        add(two, "y", directory(a=File(SMALL[3]), b=File(LARGE[1])))
        found = repair(store, lost, [services_of(one), services_of(two)])
        assert found == len(lost.blobs) == 5
        left = _lost(store)
        assert (left.blobs, left.directories) == (frozenset(), lost.directories)
        add(two, "p", TREE)
        repair(store, left, [services_of(two)])
    _is_whole_again(store, info)


class _Down:
    """A place of which nothing can be had."""

    name = "down"

    def __getattr__(self, name: str) -> object:
        raise ServiceError("cannot reach it")


def test_a_place_that_cannot_be_reached_is_passed_over(
    store: Store, info: PathInfo, far: Services
) -> None:
    lost = _harmed(store, info, _everything)
    down = far._replace(blobs=_Down(), directories=_Down())  # type: ignore[arg-type]
    assert repair(store, lost, [down]) == 0
    repair(store, lost, [down, far])
    _is_whole_again(store, info)


def test_a_place_that_is_damaged_itself_is_not_believed(
    store: Store, info: PathInfo, tmp_path: Path, far: Services
) -> None:
    lost = _harmed(store, info, _everything)
    with Store.open(tmp_path / "worse") as worse:
        _each(harm.change, packed=True)(worse, add(worse, "p", TREE))
        found = repair(store, lost, [services_of(worse)])
    # Large files are whole there, and directories.
    assert found == 2 + len(lost.directories)
    assert _lost(store).blobs == {one for one in lost.blobs if one in _digests(SMALL)}
    repair(store, _lost(store), [far])
    _is_whole_again(store, info)


def _digests(contents: tuple[bytes, ...]) -> set[B3Digest]:
    return {B3Digest.of(data) for data in contents}


def test_nothing_lost_nothing_done(store: Store, info: PathInfo, far: Services) -> None:
    rows = list(store.blobs.rows())
    assert repair(store, _lost(store), [far]) == 0
    assert list(store.blobs.rows()) == rows


def test_damaged_twins(store: Store, info: PathInfo) -> None:
    """The contents are right, and what checkouts show is made again."""
    BindView(store).check_out([info])
    for twin in store.layout.twins.glob("??/*"):
        twin.chmod(0o644)
        twin.write_bytes(b"scribbled")
    checkout = store.layout.bind_view / info.path.base
    assert (checkout / "s").read_bytes() == b"scribbled"
    lost = _lost(store)
    assert (lost.blobs, lost.directories) == (frozenset(), frozenset())
    assert lost.shown >= _digests(SMALL[1:4])
    with open(checkout / "s", "rb") as running:
        repair(store, lost)
        # Whoever has it open keeps what he has.
        assert running.read() == b"scribbled"
    assert not checkout.exists()
    _is_whole_again(store, info)


def test_checkouts_without_what_is_damaged_stay(store: Store, info: PathInfo) -> None:
    other = add(store, "other", directory(x=File(b"something else")))
    BindView(store).check_out([info, other])
    [row] = [row for row in store.blobs.rows() if row.digest == B3Digest.of(SMALL[2])]
    harm.change(store.blobs, row)
    repair(store, _lost(store))
    assert (store.layout.bind_view / other.path.base / "x").read_bytes() == b"something else"
    _is_whole_again(store, info)


def test_path_infos_are_not_touched(store: Store, info: PathInfo, far: Services) -> None:
    before = list(store.paths.all())
    repair(store, _harmed(store, info, _everything), [far])
    assert list(store.paths.all()) == before == [store.info(path("p"))]
