"""The castore services as a client with protobuf's own messages sees them: answers and statuses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from eka_runtime.castore import served
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.messages import Chunk
from eka_runtime.castore.node import Directory, DirectoryNode
from eka_runtime.castore.served import ChunkedBlobs
from eka_runtime.errors import StoreCorrupt
from eka_runtime.rpc.library import grpc
from eka_runtime.rpc.server import Status
from eka_runtime.store.served import serve
from tests.unit.castore.descriptors import message, wire
from tests.unit.castore.local import temporary
from tests.unit.castore.test_tree_order import DOWN, UP, A, B, above
from tests.unit.rpc.memory import Memory, MemoryBlobs

ABSENT = bytes(32)
TOP = UP[-1]


class Client:
    """Calls by protobuf messages: what a client of another make sends and takes."""

    def __init__(self, place: str, memory: Memory) -> None:
        self.memory = memory
        self.channel = grpc.insecure_channel(f"unix:{place}/s")

    def stat(self, **fields: Any) -> Any:
        call = self.channel.unary_unary(f"{_BLOBS}/Stat", wire, _parser("StatBlobResponse"))
        return call(message("StatBlobRequest")(**fields))

    def read(self, **fields: Any) -> list[bytes]:
        call = self.channel.unary_stream(f"{_BLOBS}/Read", wire, _parser("BlobChunk"))
        return [chunk.data for chunk in call(message("ReadBlobRequest")(**fields))]

    def put(self, chunks: Iterable[bytes]) -> bytes:
        call = self.channel.stream_unary(f"{_BLOBS}/Put", wire, _parser("PutBlobResponse"))
        digest: bytes = call(message("BlobChunk")(data=data) for data in chunks).digest
        return digest

    def get(self, **fields: Any) -> list[bytes]:
        call = self.channel.unary_stream(f"{_DIRECTORIES}/Get", wire, None)
        return list(call(message("GetDirectoryRequest")(**fields)))

    def put_tree(self, tree: Iterable[bytes]) -> bytes:
        answer = _parser("PutDirectoryResponse")
        call = self.channel.stream_unary(f"{_DIRECTORIES}/Put", None, answer)
        digest: bytes = call(iter(tree)).root_digest
        return digest


_BLOBS = "/snix.castore.v1.BlobService"
_DIRECTORIES = "/snix.castore.v1.DirectoryService"


def _parser(name: str) -> Any:
    return message(name).FromString


@pytest.fixture
def client() -> Iterator[Client]:
    memory = Memory()
    with temporary() as place, serve(memory, f"unix:{place}/s"):
        found = Client(str(place), memory)
        with found.channel:
            yield found


class Fails:
    """As `pytest.raises`, by status."""

    def __init__(self, status: grpc.StatusCode, details: str = "") -> None:
        self._expected = status, details

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        status, details = self._expected
        assert isinstance(error, grpc.RpcError), "nothing was refused"
        assert error.code() is status, error
        assert details in (error.details() or "")
        return True


def test_blobs(client: Client) -> None:
    digest = client.put([b"con", b"", b"tents"])
    assert digest == B3Digest.of(b"contents")
    assert client.read(digest=digest) == [b"contents"]
    assert wire(client.stat(digest=digest)) == b""
    assert wire(client.stat(digest=digest, send_chunks=True, send_bao=True)) == b""
    empty = client.put([])
    assert empty == B3Digest.of(b"")
    assert client.read(digest=empty) == []


def test_no_message_is_larger_than_others_take(client: Client) -> None:
    digest = client.memory.blobs.keep(bytes(9_000_000))
    received = client.read(digest=digest)
    assert b"".join(received) == bytes(9_000_000)
    assert max(map(len, received)) < 4 << 20


def test_statuses_of_blobs(client: Client) -> None:
    for ask in (client.stat, client.read):
        with Fails(Status.NOT_FOUND):
            ask(digest=ABSENT)
        for digest in (b"", bytes(31), bytes(33)):
            with Fails(Status.INVALID_ARGUMENT, "32 bytes"):
                ask(digest=digest)


def test_damage_is_told_at_the_end(client: Client) -> None:
    digest = B3Digest.of(b"right")
    client.memory.blobs[digest] = b"wrong"
    with Fails(Status.DATA_LOSS, str(digest)):
        client.read(digest=digest)


class Chunked(MemoryBlobs):
    def chunks(self, digest: B3Digest) -> list[Chunk] | None:
        if digest not in self:
            return None
        contents = self[digest]
        return [Chunk(B3Digest.of(contents), len(contents))] * 2


def test_chunks_are_told(client: Client) -> None:
    with temporary() as place:
        memory = Memory(Chunked())
        assert isinstance(memory.blobs, ChunkedBlobs)
        digest = memory.blobs.keep(b"contents")
        with serve(memory, f"unix:{place}/s"):
            other = Client(str(place), memory)
            with other.channel:
                found = other.stat(digest=digest)
                assert [(meta.digest, meta.size) for meta in found.chunks] == [(digest, 8)] * 2
                assert found.bao == b""
                with Fails(Status.NOT_FOUND):
                    other.stat(digest=ABSENT)


def test_a_failing_backend(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, digest: object) -> None:
        raise StoreCorrupt("lost")

    monkeypatch.setattr(MemoryBlobs, "open_read", fail)
    with Fails(Status.DATA_LOSS, "lost"):
        client.read(digest=ABSENT)


def test_directories(client: Client) -> None:
    assert client.put_tree(one.encode() for one in UP) == TOP.digest
    assert client.get(digest=A.digest) == [A.encode()]
    assert client.get(digest=TOP.digest, recursive=True) == [one.encode() for one in DOWN]
    assert client.get(digest=ABSENT, recursive=True) == []


def test_statuses_of_directories(client: Client) -> None:
    with Fails(Status.NOT_FOUND):
        client.get(digest=ABSENT)
    for recursive in (True, False):
        with Fails(Status.INVALID_ARGUMENT):
            client.get(recursive=recursive)
        with Fails(Status.INVALID_ARGUMENT):
            client.get(digest=bytes(31), recursive=recursive)
    client.memory.directories[TOP.digest] = TOP
    with Fails(Status.DATA_LOSS, "is missing"):
        client.get(digest=TOP.digest, recursive=True)


_LIAR = Directory(((b"a", DirectoryNode(A.digest, 3)),))


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ([], "not none"),
        ([A.encode(), B.encode()], "2 are in no other"),
        ([TOP.encode()], "did not come before"),
        ([A.encode(), _LIAR.encode()], "has size 2, not 3"),
        ([A.encode(), above(A).encode() + b"\x22\x00"], "invalid directory"),
        ([b"\x12\x02\x0a\x00"], "invalid directory"),
        ([b"\xff"], "invalid directory"),
    ],
)
def test_what_is_no_tree_is_not_taken(client: Client, sent: list[bytes], problem: str) -> None:
    with Fails(Status.INTERNAL, problem):
        client.put_tree(sent)
    assert client.memory.directories == {}


def test_trees_are_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "MAX_DIRECTORIES", 4)
    with Fails(Status.INTERNAL, "more than 4"):
        client.put_tree(one.encode() for one in UP)
    assert client.put_tree(one.encode() for one in [A, B, above(A, B)])


def test_a_directory_that_comes_twice(client: Client) -> None:
    sent = [A, A, above(A)]
    assert client.put_tree(one.encode() for one in sent) == sent[-1].digest
