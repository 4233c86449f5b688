"""Path infos over real gRPC, ours at both ends and protobuf's at one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import (
    Directory,
    DirectoryNode,
    FileNode,
    Node,
    SymlinkNode,
    encode_entry,
)
from eka_runtime.castore.remote import RemoteBlobs, RemoteDirectories
from eka_runtime.castore.render import NarDigest, nar_digest
from eka_runtime.errors import HashMismatch, ServiceError
from eka_runtime.nix.path import StorePath
from eka_runtime.rpc.channel import Channel
from eka_runtime.rpc.library import grpc
from eka_runtime.rpc.server import Status, answering, serving, unary
from eka_runtime.store.messages import PATH_INFO_SERVICE, encode_path_info
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.remote import RemotePathInfos
from eka_runtime.store.served import serve
from tests.stores import link_info
from tests.unit.castore.descriptors import STORE, message, wire
from tests.unit.castore.local import temporary
from tests.unit.castore.test_served import Fails
from tests.unit.rpc.memory import Memory, MemoryPaths, served_memory
from tests.unit.store.path_infos import path_infos

A = link_info("a")
ABSENT = StorePath("0" * 32, "absent")


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Memory, Channel]]:
    with temporary() as place, served_memory(place) as found:
        yield found


@pytest.fixture
def served(shared: tuple[Memory, Channel]) -> tuple[Memory, Channel]:
    memory, channel = shared
    for each in (memory.blobs, memory.directories, memory.paths):
        each.clear()
    return memory, channel


@pytest.fixture
def call(served: tuple[Memory, Channel]) -> Iterator[Any]:
    """Calls a method with a message of protobuf's and the class of the answer."""
    socket = served[1].url.removeprefix("grpc+")
    with grpc.insecure_channel(socket) as channel:

        def ask(method: str, request: Any, answer: str) -> Any:
            parse = message(answer, STORE).FromString
            return channel.unary_unary(f"/{PATH_INFO_SERVICE}/{method}", None, parse)(request)

        yield ask


@given(info=path_infos)
def test_path_infos_come_back(shared: tuple[Memory, Channel], info: PathInfo) -> None:
    memory, channel = shared
    paths = RemotePathInfos(channel)
    assert paths.put(info) == info
    assert memory.paths[info.path.hash] == info
    assert paths.by_hash(info.path.hash) == info


def test_listing(served: tuple[Memory, Channel]) -> None:
    memory, channel = served
    paths = RemotePathInfos(channel)
    assert list(paths.all()) == []
    infos = [link_info(str(number)) for number in range(300)]
    for info in infos:
        memory.paths.put(info)
    assert list(paths.all()) == infos
    some = paths.all()
    assert next(some) == infos[0]
    some.close()  # type: ignore[attr-defined]


def test_paths_that_are_not_there(served: tuple[Memory, Channel]) -> None:
    assert RemotePathInfos(served[1]).by_hash(ABSENT.hash) is None


def test_what_is_recorded_comes_back(
    served: tuple[Memory, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = f"key:{'A' * 86}=="

    def sign(self: MemoryPaths, info: PathInfo) -> PathInfo:
        return info._replace(signatures=(signature,))

    monkeypatch.setattr(MemoryPaths, "put", sign)
    assert RemotePathInfos(served[1]).put(A).signatures == (signature,)


def test_protobuf_asks(served: tuple[Memory, Channel], call: Any) -> None:
    memory, _ = served
    memory.paths.put(A)
    request = wire(message("GetPathInfoRequest", STORE)(by_output_hash=A.path.digest))
    found = call("Get", request, "PathInfo")
    assert found.entry.symlink.name.decode() == A.path.base
    assert found.narinfo.nar_sha256 == A.nar_hash
    again = call("Put", wire(found), "PathInfo")
    assert again == found


def test_statuses(served: tuple[Memory, Channel], call: Any) -> None:
    request = message("GetPathInfoRequest", STORE)
    with Fails(Status.NOT_FOUND):
        call("Get", wire(request(by_output_hash=bytes(20))), "PathInfo")
    with Fails(Status.INVALID_ARGUMENT, "20"):
        call("Get", wire(request(by_output_hash=bytes(19))), "PathInfo")
    with Fails(Status.UNIMPLEMENTED):
        call("Get", b"", "PathInfo")
    with Fails(Status.INVALID_ARGUMENT, "no entry"):
        call("Put", b"", "PathInfo")
    for entry in (b"", b"\xff", encode_entry(SymlinkNode(b"x"), b"name")):
        with Fails(Status.INVALID_ARGUMENT):
            call("CalculateNAR", entry, "CalculateNARResponse")
    assert served[0].paths == {}


def test_backends_that_fail(
    served: tuple[Memory, Channel], call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise HashMismatch("another NAR")

    for name in ("put", "by_hash", "all"):
        monkeypatch.setattr(MemoryPaths, name, fail)
    with Fails(Status.UNKNOWN, "another NAR"):
        call("Put", encode_path_info(A), "PathInfo")
    with Fails(Status.UNKNOWN, "another NAR"):
        call("Get", b"\x0a\x14" + bytes(20), "PathInfo")
    with pytest.raises(ServiceError, match="INTERNAL: another NAR"):
        list(RemotePathInfos(served[1]).all())
    missing = encode_entry(FileNode(B3Digest(bytes(32)), 1))
    with Fails(Status.UNKNOWN, "is missing"):
        call("CalculateNAR", missing, "CalculateNARResponse")


def tree(memory: Memory) -> Node:
    digest = memory.blobs.keep(b"contents" * 100_000)
    inner = Directory(((b"file", FileNode(digest, 800_000, True)),))
    outer = Directory(((b"dir", inner.node), (b"link", SymlinkNode(b"dir/file"))))
    memory.directories.put_tree([inner, outer])
    return outer.node


def test_a_nar_is_calculated(served: tuple[Memory, Channel]) -> None:
    memory, channel = served
    for node in (tree(memory), SymlinkNode(b"target")):
        expected = nar_digest(node, memory.blobs, memory.directories)
        assert RemotePathInfos(channel).calculate_nar(node) == expected
        remote = RemoteBlobs(channel), RemoteDirectories(channel)
        assert nar_digest(node, *remote) == expected


def test_a_nar_is_calculated_where_the_path_infos_are(served: tuple[Memory, Channel]) -> None:
    """A server in front of another has no contents of its own, and asks it."""
    memory, channel = served
    node = tree(memory)
    front = Memory()
    front.paths = RemotePathInfos(channel)  # type: ignore[assignment]
    with temporary() as place, serve(front, f"unix:{place}/s") as url:
        paths = RemotePathInfos.from_url(url)
        assert paths.calculate_nar(node) == nar_digest(node, memory.blobs, memory.directories)
        paths.close()


def test_a_server_may_only_be_read(served: tuple[Memory, Channel]) -> None:
    memory, _ = served
    memory.paths.put(A)
    with temporary() as place, serve(memory, f"unix:{place}/s", read_only=True) as url:
        channel = Channel(url)
        paths = RemotePathInfos(channel)
        assert paths.by_hash(A.path.hash) == A
        for put in (
            lambda: paths.put(A),
            lambda: RemoteBlobs(channel).put(lambda size: b""),
            lambda: RemoteDirectories(channel).put_tree([Directory(())]),
        ):
            with pytest.raises(ServiceError, match="read-only"):
                put()
        channel.close()
    assert memory.blobs == {}


@pytest.mark.parametrize("answer", [b"", b"\xff", encode_path_info(link_info("b"))])
def test_answers_that_are_wrong(answer: bytes) -> None:
    methods = {
        "Get": unary(lambda request: answer),
        "Put": unary(lambda request: answer),
        "List": answering(lambda request: iter([answer[:-1]])),
        "CalculateNAR": unary(lambda request: answer[:-1]),
    }
    with temporary() as place, serving(f"unix:{place}/s", {PATH_INFO_SERVICE: methods}) as url:
        paths = RemotePathInfos.from_url(url)
        for ask in (
            lambda: paths.by_hash(A.path.hash),
            lambda: paths.put(A),
            lambda: list(paths.all()),
            lambda: paths.calculate_nar(DirectoryNode(B3Digest(bytes(32)), 0)),
        ):
            with pytest.raises(ServiceError):
                ask()
        paths.close()


def test_a_nar_digest_is_told_exactly() -> None:
    with temporary() as place:
        found = wire(message("CalculateNARResponse", STORE)(nar_size=120, nar_sha256=bytes(32)))
        methods = {"CalculateNAR": unary(lambda request: found)}
        with serving(f"unix:{place}/s", {PATH_INFO_SERVICE: methods}) as url:
            paths = RemotePathInfos.from_url(url)
            assert paths.calculate_nar(SymlinkNode(b"x")) == NarDigest(bytes(32), 120)
            paths.close()
