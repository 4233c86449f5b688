"""Closures between real stores: what is copied, in which order, what is refused, what remains."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode
from eka_runtime.castore.services import BlobService, DirectoryTrees
from eka_runtime.errors import (
    HashMismatch,
    PathNotFound,
    ServiceError,
    StoreCorrupt,
)
from eka_runtime.nix.export import ExportItem
from eka_runtime.nix.path import StorePath
from eka_runtime.store.composition import Services, services_of
from eka_runtime.store.copying import KnownPaths, missing_here, missing_there
from eka_runtime.store.gc import collect
from eka_runtime.store.incoming import copy_from
from eka_runtime.store.outgoing import copy_to
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from tests.stores import assert_clean, insert, link_info
from tests.unit.nix.trees import Dir, File, Link, Tree, directory, to_nar
from tests.unit.store.test_transfer import _import, _stream

A, B, C, D = (StorePath(letter * 32, letter) for letter in "abcd")
BIG = random.Random(0).randbytes(5 << 20)
SHARED = directory(one=File(b"one" * 1000), two=File(b"two"), empty=File(b""))
CLOSURE: list[tuple[ExportItem, Tree]] = [
    (ExportItem(A, (), None), directory(shared=SHARED, again=SHARED, big=File(BIG))),
    (ExportItem(B, (A,), StorePath("d" * 32, "b.drv")), File(b"b" * 100, executable=True)),
    (ExportItem(C, (A, B, C), None), directory(shared=SHARED, link=Link(b"shared/one"))),
    (ExportItem(D, (), None), Link(b"nothing")),
]


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Store]:
    """A store with the closure of c, and d beside it."""
    with Store.open(tmp_path / "far") as store:
        _import(store, _stream(*CLOSURE))
        yield store
    assert_clean(tmp_path / "far")


class Changed(NamedTuple):
    """A far place of which one part is not what it should be."""

    name: str
    blobs: BlobService
    directories: DirectoryTrees
    paths: KnownPaths

    @classmethod
    def of(cls, store: Store) -> Changed:
        return cls(*services_of(store))


def paths(infos: list[PathInfo]) -> list[StorePath]:
    return [info.path for info in infos]


def same(info: PathInfo) -> PathInfo:
    return info._replace(registered=0)


def test_a_closure_is_copied_references_first(store: Store, far: Store) -> None:
    place = services_of(far)
    infos = missing_here(store, place, [C])
    assert paths(infos) == [A, B, C]
    each: list[PathInfo] = []
    seen: list[tuple[int, int]] = []
    copy_from(store, place, infos, each=each.append, progress=lambda *now: seen.append(now))
    assert paths(each) == [A, B, C]
    for path in (A, B, C):
        assert same(store.info(path)) == same(far.info(path))
    assert seen[-1] == (3, sum(info.nar_size for info in infos))
    assert seen == sorted(seen)
    assert store.paths.get(D) is None


def test_only_what_is_missing_is_copied(store: Store, far: Store) -> None:
    place = services_of(far)
    copy_from(store, place, missing_here(store, place, [B]))
    assert paths(missing_here(store, place, [C, C, A])) == [C]
    assert missing_here(store, place, [A, B]) == []
    asked = _Asked(far.blobs)
    copy_from(store, place._replace(blobs=asked), missing_here(store, place, [C]))
    # All blobs of c came with a.
    assert asked.digests == []
    copy_from(store, place, missing_here(store, place, [C, D]))
    assert store.info(D).node == far.info(D).node


def test_what_is_there_already_stays_for_the_copy(store: Store, far: Store) -> None:
    """Nobody wanted it for long, and somebody collects right after it was seen."""
    place = services_of(far)
    copy_from(store, place, missing_here(store, place, [B]))
    with store.database.transaction() as conn:
        conn.execute("update path set epoch = 0")
    infos = missing_here(store, place, [C])
    assert paths(infos) == [C]
    with Store.open(store.root) as other:
        assert collect(other).paths == 0
    copy_from(store, place, infos)
    assert same(store.info(C)) == same(far.info(C))


def test_what_is_collected_while_it_is_looked_up_is_copied(
    store: Store, far: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = services_of(far)
    copy_from(store, place, missing_here(store, place, [B]))
    with store.database.transaction() as conn:
        conn.execute("update path set epoch = 0")
    real = store.paths.get

    def get(path: StorePath) -> PathInfo | None:
        monkeypatch.undo()
        found = real(path)
        with Store.open(store.root) as other:
            assert collect(other).paths == 2
        return found

    monkeypatch.setattr(store.paths, "get", get)
    copy_from(store, place, missing_here(store, place, [B]))
    assert same(store.info(B)) == same(far.info(B))


def test_what_is_about_to_be_removed_is_copied_anew(store: Store, far: Store) -> None:
    """It was marked before we came, and goes when those leave who came before."""
    place = services_of(far)
    copy_from(store, place, missing_here(store, place, [C]))
    with store.database.transaction() as conn:
        conn.execute("update path set epoch = 0")
    with Store.open(store.root) as collector:
        assert collect(collector).pending
    with Store.open(store.root) as now:

        def leave(info: PathInfo) -> None:
            store.close()
            with Store.open(store.root) as other:
                collect(other)

        copy_from(now, place, missing_here(now, place, [C]), each=leave)
        for path in (A, B, C):
            now.write_nar(path, lambda piece: None)
            assert same(now.info(path)) == same(far.info(path))


class _Asked:
    def __init__(self, blobs: BlobService) -> None:
        self.blobs = blobs
        self.digests: list[B3Digest] = []

    def has(self, digest: B3Digest) -> bool:
        return self.blobs.has(digest)

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        self.digests.append(digest)
        return self.blobs.open_read(digest)

    def put(self, read: object) -> B3Digest:
        raise NotImplementedError


def test_each_blob_is_asked_for_once(store: Store, far: Store) -> None:
    asked = _Asked(far.blobs)
    place = services_of(far)._replace(blobs=asked)
    copy_from(store, place, missing_here(store, place, [C]))
    assert len(asked.digests) == len(set(asked.digests)) == 4


def test_what_nobody_has(store: Store, far: Store) -> None:
    lost = StorePath("0" * 32, "lost")
    with pytest.raises(PathNotFound, match=r"neither in the store .* nor in the store"):
        missing_here(store, services_of(far), [A, lost])
    with pytest.raises(PathNotFound, match=r"which has `a{32}-a`"):
        missing_here(store, services_of(far), [StorePath(A.hash, "b")])


class _Paths:
    def __init__(self, infos: tuple[PathInfo, ...]) -> None:
        self._infos = {info.path.hash: info for info in infos}

    def by_hash(self, digits: str) -> PathInfo | None:
        return self._infos.get(digits)


def _knowing(far: Store, *infos: PathInfo) -> Changed:
    return Changed.of(far)._replace(paths=_Paths(infos))


def test_a_far_place_without_a_reference(store: Store, far: Store) -> None:
    place = _knowing(far, far.info(C), far.info(B))
    with pytest.raises(PathNotFound, match=r"`/nix/store/a+-a` is neither .* refers to it"):
        missing_here(store, place, [C])


def test_references_in_a_circle(store: Store, far: Store) -> None:
    info = far.info(A)
    place = _knowing(far, info._replace(references=(B,)), far.info(B))
    with pytest.raises(ServiceError, match="form a cycle"):
        missing_here(store, place, [A])


def test_contents_must_have_the_hash_that_is_stated(store: Store, far: Store) -> None:
    false = far.info(A)._replace(nar_hash=bytes(32))
    with pytest.raises(HashMismatch, match="its path info says sha256-AAAA"):
        copy_from(store, Changed.of(far), [false])
    for size in (-8, 8):
        false = far.info(A)._replace(nar_size=far.info(A).nar_size + size)
        with pytest.raises(HashMismatch, match="bytes"):
            copy_from(store, Changed.of(far), [false])
    assert list(store.paths.all()) == []


def test_a_false_content_address_is_not_kept(store: Store, far: Store) -> None:
    info = far.info(D)._replace(ca="fixed:r:sha256:" + "0" * 52)
    copy_from(store, Changed.of(far), [info])
    assert store.info(D).ca is None


class _Lying(_Asked):
    """Gives other contents of the same size for one blob, or none."""

    def __init__(self, blobs: BlobService, digest: B3Digest, lie: bytes | None) -> None:
        super().__init__(blobs)
        self._digest = digest
        self._lie = lie

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        if digest != self._digest:
            return super().open_read(digest)
        return None if self._lie is None else io.BytesIO(self._lie)


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (b"owt", HashMismatch),
        (b"tw", StoreCorrupt),
        (b"twoo", StoreCorrupt),
        (None, StoreCorrupt),
    ],
)
def test_a_lie_about_a_blob_leaves_nothing_valid(
    store: Store, far: Store, lie: bytes | None, error: type[Exception]
) -> None:
    place = Changed.of(far)._replace(blobs=_Lying(far.blobs, B3Digest.of(b"two"), lie))
    infos = missing_here(store, place, [C, D])
    with pytest.raises(error):
        copy_from(store, place, infos)
    assert store.paths.get(A) is None
    # What is right comes in at the next attempt.
    copy_from(store, services_of(far), missing_here(store, services_of(far), [C]))


class _Trees:
    def __init__(self, tree: list[Directory] | None) -> None:
        self._tree = tree

    def get(self, digest: B3Digest) -> Directory | None:
        raise NotImplementedError

    def get_tree(self, digest: B3Digest) -> Iterator[Directory] | None:
        return None if self._tree is None else iter(self._tree)


def test_a_lost_tree(store: Store, far: Store) -> None:
    place = Changed.of(far)._replace(directories=_Trees(None))
    with pytest.raises(StoreCorrupt, match="but not its directories"):
        copy_from(store, place, missing_here(store, place, [C]))
    place = place._replace(directories=_Trees([Directory(())]))
    with pytest.raises(StoreCorrupt, match="out of place"):
        copy_from(store, place, missing_here(store, place, [C]))


@pytest.mark.parametrize(
    "leaf", [((b"file", FileNode(B3Digest.of(b"two"), 3)),), ()], ids=["files", "none"]
)
def test_a_tree_without_end_is_cut_off(
    store: Store, far: Store, leaf: tuple[tuple[bytes, FileNode], ...]
) -> None:
    """Sixty directories, each twice in the next: a NAR of 2**60 files, or without one."""
    tree = [Directory(leaf)]
    for _ in range(60):
        tree.append(Directory(((b"a", tree[-1].node), (b"b", tree[-1].node))))
    place = Changed.of(far)._replace(directories=_Trees(tree[::-1]))
    endless = far.info(A)._replace(node=tree[-1].node)
    with pytest.raises(HashMismatch, match="more than the"):
        copy_from(store, place, [endless])


def test_what_was_copied_before_an_error_stays(store: Store, far: Store) -> None:
    infos = missing_here(store, services_of(far), [C])
    infos[2] = infos[2]._replace(nar_hash=bytes(32))
    each: list[PathInfo] = []
    with pytest.raises(HashMismatch):
        copy_from(store, services_of(far), infos, each=each.append)
    assert paths(each) == [A, B] == sorted(info.path for info in store.paths.all())


def test_thousands_of_small_files(store: Store, far: Store, tmp_path: Path) -> None:
    choose = random.Random(7)
    names = [b"%05d" % number for number in range(3000)]
    files = [File(choose.randbytes(choose.choice([0, 3, 200, 9000]))) for _ in range(700)]
    tree = Dir(tuple((name, choose.choice(files)) for name in names))
    path = StorePath("f" * 32, "many")
    _import(far, _stream((ExportItem(path, (), None), tree)))
    copy_from(store, services_of(far), missing_here(store, services_of(far), [path]))
    nar = io.BytesIO()
    store.write_nar(path, nar.write)
    assert hashlib.sha256(nar.getvalue()).digest() == hashlib.sha256(to_nar(tree)).digest()


def test_a_closure_is_sent(store: Store, far: Store) -> None:
    place = services_of(store)
    infos = missing_there(far, place, [C])
    assert paths(infos) == [A, B, C]
    each: list[PathInfo] = []
    seen: list[tuple[int, int]] = []
    copy_to(far, place, infos, each=each.append, progress=lambda *now: seen.append(now))
    assert paths(each) == [A, B, C]
    assert seen[-1][0] == 3
    for path in (A, B, C):
        assert same(store.info(path)) == same(far.info(path))
    assert missing_there(far, place, [C]) == []
    assert paths(missing_there(far, place, [C, D])) == [D]
    copy_to(far, place, missing_there(far, place, [D]))
    assert store.info(D).node == far.info(D).node


def test_a_damaged_blob_is_not_sent(store: Store, far: Store) -> None:
    place = services_of(store)
    infos = missing_there(far, place, [C])
    lying = _Lying(far.blobs, B3Digest.of(b"two"), b"owt")
    far.blobs = lying  # type: ignore[assignment]
    with pytest.raises(StoreCorrupt, match="it is damaged here"):
        copy_to(far, place, infos)
    far.blobs = lying.blobs  # type: ignore[assignment]
    assert list(store.paths.all()) == []
    copy_to(far, place, infos)


def test_other_contents_over_there(store: Store, far: Store) -> None:
    insert(store, link_info("x")._replace(path=D, ca=None))
    with pytest.raises(HashMismatch, match="with NAR hash") as caught:
        missing_there(far, services_of(store), [D])
    assert caught.value.hint is not None
    with pytest.raises(PathNotFound):
        missing_there(far, services_of(store), [StorePath("0" * 32, "lost")])


def test_services_have_names(far: Store) -> None:
    assert isinstance(services_of(far), Services)
    assert services_of(far).name == f"the store `{far.root}`"
    assert isinstance(far.info(A).node, DirectoryNode)
