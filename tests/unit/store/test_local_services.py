"""A real store behind real gRPC: what is sent to it is valid there, and what is in it comes out."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, DirectoryNode
from eka_runtime.castore.remote import RemoteBlobs, RemoteDirectories
from eka_runtime.castore.render import nar_digest, nar_of
from eka_runtime.castore.trees import leaves_first
from eka_runtime.errors import PathNotFound, ServiceError, StoreCorrupt
from eka_runtime.rpc.channel import Channel
from eka_runtime.store.local_services import LocalServices
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.remote import RemotePathInfos
from eka_runtime.store.served import serve
from eka_runtime.store.store import Store
from tests.stores import assert_clean, link_info
from tests.unit.castore.local import temporary
from tests.unit.nix.trees import COMPLICATED, Tree, to_disk, to_nar, trees


class Remote:
    """The three services of one channel."""

    def __init__(self, url: str) -> None:
        self.channel = Channel(url)
        self.blobs = RemoteBlobs(self.channel)
        self.directories = RemoteDirectories(self.channel)
        self.paths = RemotePathInfos(self.channel)

    def send(self, store: Store, info: PathInfo) -> PathInfo:
        """Everything of a path, in the order that servers want."""
        if isinstance(info.node, DirectoryNode):
            for directory in leaves_first(info.node.digest, store.directories):
                for _, node in directory.entries:
                    self._send_blob(store, getattr(node, "digest", None))
            self.directories.put_tree(leaves_first(info.node.digest, store.directories))
        else:
            self._send_blob(store, getattr(info.node, "digest", None))
        return self.paths.put(info)

    def _send_blob(self, store: Store, digest: B3Digest | None) -> None:
        reader = store.blobs.open_read(digest) if digest else None
        if reader is not None:
            with reader:
                assert self.blobs.put(reader.read) == digest


@pytest.fixture
def remote(store: Store) -> Iterator[Remote]:
    with temporary() as place, serve(LocalServices.of(store), f"unix:{place}/s") as url:
        found = Remote(url)
        yield found
        found.channel.close()


def test_a_path_goes_there_and_back(store: Store, remote: Remote, tmp_path: Path) -> None:
    tree = to_disk(COMPLICATED, tmp_path / "tree")
    (tree / "large").write_bytes(os.urandom(3_000_000))
    (tree / "run").write_bytes(b"#!")
    (tree / "run").chmod(0o755)
    with Store.open(tmp_path / "other") as other:
        info = other.add_tree(tree)
        recorded = remote.send(other, info)
    assert recorded == info._replace(registered=0)
    assert store.info(info.path).node == info.node
    assert remote.paths.by_hash(info.path.hash) == recorded
    assert list(remote.paths.all()) == [recorded]
    assert remote.paths.calculate_nar(info.node) == (info.nar_hash, info.nar_size)
    parts: list[bytes] = []
    store.write_nar(info.path, parts.append)
    assert nar_of(info.node, remote.blobs, remote.directories) == b"".join(parts)


@given(tree=trees)
def test_any_tree_goes_there_and_back(tree: Tree) -> None:
    with temporary() as place:
        with (
            Store.open(place / "here") as here,
            Store.open(place / "there") as there,
            serve(LocalServices.of(there), f"unix:{place}/s") as url,
        ):
            remote = Remote(url)
            info = here.add_tree(to_disk(tree, place / "tree"))
            remote.send(here, info)
            assert nar_of(info.node, remote.blobs, remote.directories) == to_nar(tree)
            assert there.info(info.path).nar_hash == info.nar_hash
            remote.channel.close()
        assert_clean(place / "there")


def test_references_must_be_there(store: Store, remote: Remote) -> None:
    leaf = link_info("leaf")
    top = link_info("top", [leaf.path])
    with pytest.raises(ServiceError, match="UNKNOWN"):
        remote.paths.put(top)
    assert remote.paths.put(leaf) == leaf
    assert remote.paths.put(top) == top
    assert remote.paths.put(top) == top
    assert store.closure([top.path]) == sorted([leaf.path, top.path])


def test_a_path_without_its_contents_is_refused(
    store: Store, remote: Remote, tmp_path: Path
) -> None:
    tree = to_disk(COMPLICATED, tmp_path / "tree")
    with Store.open(tmp_path / "other") as other:
        info = other.add_tree(tree)
        assert isinstance(info.node, DirectoryNode)
        with pytest.raises(ServiceError):
            remote.paths.put(info)
        remote.directories.put_tree(leaves_first(info.node.digest, other.directories))
        with pytest.raises(ServiceError, match="blob"):
            remote.paths.put(info)
        with pytest.raises(PathNotFound):
            store.info(info.path)
        assert remote.send(other, info).path == info.path


def test_a_path_info_that_lies_is_refused(store: Store, remote: Remote) -> None:
    info = link_info("target")
    for lie in (
        info._replace(nar_hash=bytes(32)),
        info._replace(nar_hash=bytes(32), ca=None),
        info._replace(nar_size=info.nar_size + 8),
        info._replace(path=link_info("other").path),
    ):
        with pytest.raises(ServiceError, match="UNKNOWN"):
            remote.paths.put(lie)
    assert store.paths.count() == 0


def test_an_upload_that_breaks_leaves_nothing(store: Store, remote: Remote) -> None:
    contents = io.BytesIO(bytes(2_000_000))

    def read(size: int) -> bytes:
        if not (data := contents.read(size)):
            raise StoreCorrupt("the disk went away")
        return data

    with pytest.raises(StoreCorrupt, match="went away"):
        remote.blobs.put(read)
    assert not remote.blobs.has(B3Digest.of(bytes(2_000_000)))


def test_damage_does_not_get_out(damaged: Store) -> None:
    [info] = damaged.paths.all()
    large = B3Digest.of(b"large" * 100_000)
    file = damaged.blobs.path(large)
    assert file is not None
    file.chmod(0o644)
    with open(file, "r+b") as stream:
        stream.write(b"LARGE")
    with temporary() as place, serve(LocalServices.of(damaged), f"unix:{place}/s") as url:
        remote = Remote(url)
        reader = remote.blobs.open_read(large)
        assert reader is not None
        with reader, pytest.raises(StoreCorrupt):
            reader.read()
        actual = remote.paths.calculate_nar(info.node)
        assert actual == nar_digest(info.node, damaged.blobs, damaged.directories)
        assert actual.sha256 != info.nar_hash
        remote.channel.close()


def test_one_server_takes_from_many(store: Store, remote: Remote) -> None:
    contents = [hashlib.sha256(b"%d" % number).digest() * 100 for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda data: remote.blobs.put(io.BytesIO(data).read), contents))
        leaves = [Directory(()) for _ in digests]
        assert set(pool.map(lambda leaf: remote.directories.put_tree([leaf]), leaves)) == {
            Directory(()).digest
        }
        assert all(pool.map(remote.blobs.has, digests))
    assert digests == list(map(B3Digest.of, contents))
