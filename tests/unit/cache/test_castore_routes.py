"""Blobs and directories by digest: what a server gives, what a client believes, what is signed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
import urllib3

from eka_runtime.cache.castore_in import DIRECTORY_MAX, CacheSource
from eka_runtime.cache.castore_out import name_of
from eka_runtime.cache.files import Files
from eka_runtime.cache.named_node import node_text, parse_node
from eka_runtime.cache.server import Address, serving
from eka_runtime.cache.serving import Cache, Policy
from eka_runtime.cache.trust import Trust
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import Directory, DirectoryNode, FileNode, SymlinkNode, encode_entry
from eka_runtime.castore.trees import Tree
from eka_runtime.errors import ServiceError, StoreCorrupt
from eka_runtime.nix.narinfo import NarInfo, parse_narinfo
from eka_runtime.nix.path import StorePath
from eka_runtime.store.several import Several
from eka_runtime.store.store import Store
from tests.caches import Request, Server
from tests.unit.cache.conftest import other_key
from tests.unit.cache.world import KEY, NOISE, TRUST, A, B, C, fill, open_files

_NOISE = B3Digest.of(NOISE)
SourceAt = Callable[[str], CacheSource]


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "origin") as made:
        fill(made)
        yield made


@pytest.fixture
def url(origin: Store) -> Iterator[str]:
    with serving(Cache(origin, Policy(keys=(KEY,))), Address("127.0.0.1", 0), print) as found:
        yield found


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False) as pool:
        yield pool


@pytest.fixture
def source_at() -> Iterator[SourceAt]:
    """A client of the cache with this URL."""
    opened: list[Files] = []

    def open_one(url: str) -> CacheSource:
        opened.append(open_files(url))
        return CacheSource.of(opened[-1])

    yield open_one
    for files in opened:
        files.close()


def directory_of(store: Store, path: StorePath) -> DirectoryNode:
    node = store.info(path).node
    assert isinstance(node, DirectoryNode)
    return node


def test_what_is_there(origin: Store, url: str, http: urllib3.PoolManager) -> None:
    digest = directory_of(origin, A).digest
    directory = origin.directories.get(digest)
    assert directory
    for name, data in (
        (name_of("blob", _NOISE), NOISE),
        (name_of("directory", digest), directory.encode()),
    ):
        head, get = (http.request(method, f"{url}/{name}") for method in ("HEAD", "GET"))
        assert (get.status, get.data, head.status, head.data) == (200, data, 200, b"")
        for answer in (head, get):
            assert answer.headers["Content-Length"] == str(len(data))
            assert "immutable" in answer.headers["Cache-Control"]


def status_of(url: str, name: str) -> int:
    """Of a request for exactly this: other clients take `..` out of it."""
    with closing(HTTPConnection(url.removeprefix("http://"))) as line:
        line.putrequest("GET", f"/{name}")
        line.endheaders()
        return line.getresponse().status


def test_what_is_not_there(origin: Store, url: str, http: urllib3.PoolManager) -> None:
    hexed = _NOISE.hex()
    for name in (
        name_of("blob", B3Digest(bytes(32))),
        name_of("directory", B3Digest(bytes(32))),
        name_of("directory", _NOISE),
        name_of("blob", directory_of(origin, A).digest),
        f"castore/blob/{hexed[:-1]}",
        f"castore/blob/{hexed}0",
        f"castore/blob/{hexed}{'0' * 3000}",
        f"castore/blob/{hexed.upper()}",
        f"castore/blob/../blob/{hexed}",
        f"castore/blob/%2e%2e/%2e%2e/{hexed}",
        f"castore/blob/{hexed}/",
        f"castore/tree/{hexed}",
        "castore/blob/",
        "castore/",
    ):
        assert status_of(url, name) == 404, name
    assert http.request("PUT", f"{url}/{name_of('blob', _NOISE)}", body=NOISE).status == 403


def test_a_damaged_blob_does_not_go_out_whole(origin: Store, source_at: SourceAt) -> None:
    row = origin.blobs.row(_NOISE)
    assert row
    place = Path(origin.blobs.place(row))
    os.chmod(place, 0o644)
    place.write_bytes(NOISE[:-1] + b"!")
    reports: list[str] = []
    with serving(Cache(origin, Policy()), Address("127.0.0.1", 0), reports.append) as url:
        source = source_at(url)
        reader = source.blobs.open_read(_NOISE)
        assert reader
        with reader, pytest.raises(ServiceError):
            reader.read(-1)
    assert "has changed since it was added" in reports[0]


def test_a_client_gets_all_of_it(origin: Store, url: str, source_at: SourceAt) -> None:
    source = source_at(url)
    several = Several.of([source_at("http://127.0.0.1:1"), source])
    for path in (A, C):
        node = directory_of(origin, path)
        for directories in (source.directories, several.directories):
            sent = directories.get_tree(node.digest)
            assert sent
            assert Tree.receive(node.digest, sent).get(node.digest)
    for blobs in (source.blobs, several.blobs):
        reader = blobs.open_read(_NOISE)
        assert reader
        with reader:
            assert reader.read(-1) == NOISE
        empty = blobs.open_read(B3Digest.of(b""))
        assert empty
        assert empty.read() == b""
    assert source.blobs.has(_NOISE)
    assert source.blobs.open_read(B3Digest(bytes(32))) is None
    assert source.directories.get_tree(B3Digest(bytes(32))) is None
    with pytest.raises(ServiceError):  # the one that cannot be reached might have it
        several.blobs.open_read(B3Digest(bytes(32)))


def answer(server: Server, answers: dict[str, bytes]) -> None:
    def instead(request: Request) -> bool:
        data = answers.get(request.name)
        request.answer(404 if data is None else 200, data or b"")
        return True

    server.instead = instead


@pytest.mark.parametrize("data", [b"", NOISE[:-1], NOISE + b"!", b"x" * len(NOISE)])
def test_other_blobs_are_refused(server: Server, source_at: SourceAt, data: bytes) -> None:
    answer(server, {name_of("blob", _NOISE): data})
    reader = source_at(server.url).blobs.open_read(_NOISE)
    assert reader
    with reader, pytest.raises(StoreCorrupt, match="gave contents with digest"):
        reader.read(-1)


def received(source: CacheSource, digest: B3Digest) -> Tree:
    return Tree.receive(digest, source.directories.get_tree(digest) or ())


def test_other_directories_are_refused(server: Server, source_at: SourceAt) -> None:
    below = Directory(((b"file", FileNode(_NOISE, 3)),))
    top = Directory(((b"below", below.node),))
    good = {name_of("directory", one.digest): one.encode() for one in (top, below)}
    lying = Directory(((b"below", below.node._replace(size=99)),))
    loud = name_of("directory", lying.digest)
    source = source_at(server.url)
    for answers, wanted, message in (
        (good | {name_of("directory", top.digest): below.encode()}, top, "contents with digest"),
        (good | {name_of("directory", below.digest): b"?"}, top, "contents with digest"),
        ({name_of("directory", top.digest): top.encode()}, top, "has no directory"),
        (good | {loud: lying.encode()}, lying, "has size 2, not 99"),
    ):
        answer(server, answers)
        with pytest.raises(StoreCorrupt, match=message):
            received(source, wanted.digest)
    answer(server, good)
    sent = source.directories.get_tree(top.digest)
    assert sent
    assert [one.digest for one in sent] == [top.digest, below.digest]


def test_a_directory_that_is_too_large_is_not_read(server: Server, source_at: SourceAt) -> None:
    def instead(request: Request) -> bool:
        request.answer(200, Content_Length=str(DIRECTORY_MAX + 1))
        chunk = bytes(1 << 20)
        for _ in range(DIRECTORY_MAX // len(chunk)):
            request.handler.wfile.write(chunk)
        request.handler.wfile.write(b"!")
        return True

    server.instead = instead
    with pytest.raises(ServiceError, match="more than the"):
        source_at(server.url).directories.get(_NOISE)


def narinfo(url: str, http: urllib3.PoolManager, path: StorePath) -> NarInfo:
    return parse_narinfo(http.request("GET", f"{url}/{path.hash}.narinfo").data)


def test_whose_node_is_believed(origin: Store, url: str, http: urllib3.PoolManager) -> None:
    for path in (A, B, C):
        info, node = narinfo(url, http, path), origin.info(path).node
        assert TRUST.node(info) == node
        other = node_text(FileNode(_NOISE, 1))
        for changed in (
            info._replace(castore=other),
            info._replace(castore=None),
            info._replace(castore_signatures=()),
            info._replace(castore_signatures=info.signatures),
            info._replace(signatures=info.castore_signatures),
            info._replace(signatures=()),
            info._replace(nar_size=info.nar_size + 1),
            info._replace(nar_hash=bytes(32)),
            info._replace(path=StorePath("d" * 32, "d")),
        ):
            assert TRUST.node(changed) is None
        assert Trust((other_key().public,)).node(info) is None
        assert Trust().node(info) is None
        unsigned = info._replace(castore_signatures=(), signatures=())
        assert Trust(all=True).node(unsigned) == node
        assert Trust(all=True).node(unsigned._replace(castore="!")) is None


def test_a_server_without_a_key_signs_nothing(origin: Store, http: urllib3.PoolManager) -> None:
    with serving(Cache(origin, Policy()), Address("127.0.0.1", 0), print) as url:
        info = narinfo(url, http, A)
    assert parse_node(info.castore or "") == origin.info(A).node
    assert info.castore_signatures == ()


def test_the_text_that_is_signed(origin: Store, url: str, http: urllib3.PoolManager) -> None:
    """As `spec/cache.md` has it."""
    from eka_runtime.nix.hashes import NixHash

    info = narinfo(url, http, A)
    digest = NixHash("sha256", info.nar_hash).nix32()
    text = f"eka-castore-1;/nix/store/{A.base};{digest};{info.nar_size};{info.castore}"
    [signature] = info.castore_signatures
    assert KEY.public.verifies(signature, text.encode())
    assert KEY.sign(text.encode()) == signature


def test_texts_of_nodes() -> None:
    for node in (FileNode(_NOISE, 5, True), DirectoryNode(_NOISE, 7), SymlinkNode(b"x" * 4095)):
        assert parse_node(node_text(node)) == node
        assert parse_node(node_text(node) + "=") is None
    import base64

    named = base64.urlsafe_b64encode(encode_entry(SymlinkNode(b"x"), b"name")).decode()
    for text in (named.rstrip("="), "", "!", "A", "A" * 6001):
        assert parse_node(text) is None
