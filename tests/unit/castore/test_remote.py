"""Blobs and directories over real gRPC: there and back, and services that lie."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.messages import BLOB_SERVICE, DIRECTORY_SERVICE, encode_blob_chunk
from eka_runtime.castore.node import Directory, FileNode
from eka_runtime.castore.remote import RemoteBlobs, RemoteDirectories
from eka_runtime.errors import CastoreError, ServiceError, StoreCorrupt
from eka_runtime.rpc.channel import Channel
from eka_runtime.rpc.server import Refused, Status, answering, collecting, serving, unary
from tests.unit.castore.local import temporary
from tests.unit.castore.test_node import directories
from tests.unit.castore.test_tree_order import EMPTY, UP, A, B, above, leaf, pyramid, pyramids
from tests.unit.rpc.memory import Memory, served_memory

ABSENT = B3Digest(bytes(32))
TOP = UP[-1]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Memory, Channel]]:
    with temporary() as place, served_memory(place) as found:
        yield found


@pytest.fixture(scope="module")
def blobs(served: tuple[Memory, Channel]) -> RemoteBlobs:
    return RemoteBlobs(served[1])


@pytest.fixture(scope="module")
def remote(served: tuple[Memory, Channel]) -> RemoteDirectories:
    return RemoteDirectories(served[1])


def noise(size: int) -> bytes:
    return hashlib.shake_128(b"%d" % size).digest(size)


@given(contents=st.binary(max_size=500), step=st.integers(1, 600))
def test_blobs_come_back(blobs: RemoteBlobs, contents: bytes, step: int) -> None:
    digest = blobs.put(io.BytesIO(contents).read)
    assert digest == B3Digest.of(contents)
    assert blobs.has(digest)
    assert blobs.chunks(digest) == ()
    reader = blobs.open_read(digest)
    assert reader is not None
    with reader:
        assert b"".join(iter(lambda: reader.read(step), b"")) == contents


@pytest.mark.parametrize("size", [1 << 18, (1 << 18) + 1, 5_000_000])
def test_blobs_of_many_messages(
    served: tuple[Memory, Channel], blobs: RemoteBlobs, size: int
) -> None:
    contents = noise(size)
    stream = io.BytesIO(contents)
    digest = blobs.put(lambda wanted: stream.read(min(wanted, 100_001)))
    assert served[0].blobs[digest] == contents
    reader = blobs.open_read(digest)
    assert reader is not None
    with reader:
        buffer = bytearray(1000)
        assert reader.readinto(buffer) == 1000  # type: ignore[attr-defined]
        assert bytes(buffer) + reader.read() == contents
        assert reader.read(1) == b""
        assert not reader.seekable()


def test_a_reader_may_be_left_early(blobs: RemoteBlobs) -> None:
    digest = blobs.put(io.BytesIO(noise(2_000_000)).read)
    reader = blobs.open_read(digest)
    assert reader is not None
    with reader:
        assert reader.read(10) == noise(2_000_000)[:10]
    assert reader.closed


def test_blobs_that_are_not_there(blobs: RemoteBlobs) -> None:
    assert not blobs.has(ABSENT)
    assert blobs.chunks(ABSENT) is None
    assert blobs.open_read(ABSENT) is None


def test_a_source_that_breaks_leaves_nothing(
    served: tuple[Memory, Channel], blobs: RemoteBlobs
) -> None:
    before = dict(served[0].blobs)

    def read(size: int) -> bytes:
        raise StoreCorrupt("the source is damaged")

    with pytest.raises(StoreCorrupt, match="the source is damaged"):
        blobs.put(read)
    assert served[0].blobs == before


@given(shape=pyramids)
def test_trees_come_back(remote: RemoteDirectories, shape: list[list[int]]) -> None:
    tree = pyramid(shape)
    assert remote.put_tree(tree) == tree[-1].digest
    assert remote.get(tree[-1].digest) == tree[-1]
    found = list(remote.get_tree(tree[-1].digest) or ())
    assert found[0] == tree[-1]
    assert sorted(one.digest for one in found) == sorted(one.digest for one in tree)


@given(directory=directories)
def test_directories_come_back(
    served: tuple[Memory, Channel], remote: RemoteDirectories, directory: Directory
) -> None:
    served[0].directories[directory.digest] = directory
    assert remote.get(directory.digest) == directory


def test_directories_that_are_not_there(remote: RemoteDirectories) -> None:
    assert remote.get(ABSENT) is None
    assert remote.get_tree(ABSENT) is None


def test_a_tree_that_lacks_one(served: tuple[Memory, Channel], remote: RemoteDirectories) -> None:
    broken = above(leaf(b"absent"), leaf(b"also absent"))
    served[0].directories[broken.digest] = broken
    found = remote.get_tree(broken.digest)
    assert found is not None
    assert next(found) == broken
    with pytest.raises(StoreCorrupt, match="is missing"):
        next(found)


@pytest.mark.parametrize("sent", [[], [A, B], [TOP], [TOP, *UP[:-1]]])
def test_what_is_no_tree_is_not_sent(
    served: tuple[Memory, Channel], remote: RemoteDirectories, sent: list[Directory]
) -> None:
    served[0].directories.clear()
    with pytest.raises(CastoreError):
        remote.put_tree(sent)
    assert served[0].directories == {}


def test_a_large_directory(remote: RemoteDirectories) -> None:
    """More than 4 MiB, which is what others take at most."""
    node = FileNode(B3Digest.of(b""), 0)
    large = Directory(tuple((b"%064d" % number, node) for number in range(60_000)))
    assert len(large.encode()) > 4 << 20
    assert remote.put_tree([large]) == large.digest
    assert remote.get(large.digest) == large
    assert list(remote.get_tree(large.digest) or ()) == [large]
    too_large = Directory(tuple((b"%0200d" % number, node) for number in range(80_000)))
    with pytest.raises(ServiceError, match="RESOURCE_EXHAUSTED") as raised:
        remote.put_tree([too_large])
    assert "60 000 entries" in (raised.value.hint or "")


@contextmanager
def answers(
    service: str,
    place: Path,
    *,
    one: Mapping[str, bytes] | None = None,
    many: Mapping[str, list[bytes]] | None = None,
    put: bytes = b"",
) -> Iterator[Channel]:
    """A service that says what it was told to, whatever it is asked."""

    def take(requests: Iterator[bytes]) -> bytes:
        list(requests)
        return put

    methods = {"Put": collecting(take)}
    methods |= {name: unary(partial(_said, answer)) for name, answer in (one or {}).items()}
    methods |= {name: answering(partial(_all_said, said)) for name, said in (many or {}).items()}
    with serving(f"unix:{place}/s", {service: methods}) as url:
        channel = Channel(url)
        try:
            yield channel
        finally:
            channel.close()


def _said(answer: bytes, request: bytes) -> bytes:
    return answer


def _all_said(answers: list[bytes], request: bytes) -> Iterator[bytes]:
    return iter(answers)


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary() as path:
        yield path


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [b"", b""],
        [b"contents!"],
        [b"con"],
        [b"con", b"tent"],
        [b"contents", b"contents"],
    ],
)
def test_contents_that_are_wrong(place: Path, sent: list[bytes]) -> None:
    digest = B3Digest.of(b"contents")
    with (
        answers(BLOB_SERVICE, place, many={"Read": list(map(encode_blob_chunk, sent))}) as channel,
        pytest.raises(StoreCorrupt, match=str(digest)[:20]),
    ):
        read_all(RemoteBlobs(channel), digest)


def test_the_last_bytes_wait_for_the_verdict(place: Path) -> None:
    sent = [encode_blob_chunk(data) for data in (b"a", b"b", b"WRONG")]
    with answers(BLOB_SERVICE, place, many={"Read": sent}) as channel:
        reader = RemoteBlobs(channel).open_read(B3Digest.of(b"abc"))
        assert reader is not None
        with reader:
            assert reader.read(100) == b"a"
            assert reader.read(100) == b"b"
            with pytest.raises(StoreCorrupt):
                reader.read(100)


def read_all(blobs: RemoteBlobs, digest: B3Digest) -> bytes:
    reader = blobs.open_read(digest)
    assert reader is not None
    with reader:
        return reader.read()


def test_contents_in_empty_pieces(place: Path) -> None:
    sent = [encode_blob_chunk(data) for data in (b"", b"con", b"", b"tents", b"")]
    with answers(BLOB_SERVICE, place, many={"Read": sent}) as channel:
        assert read_all(RemoteBlobs(channel), B3Digest.of(b"contents")) == b"contents"


@pytest.mark.parametrize("answer", [b"\xff", b"\x0a\x7fshort", b"\x08\x01"])
def test_answers_that_make_no_sense(place: Path, answer: bytes) -> None:
    one, many = {"Stat": b"\x12" + answer}, {"Read": [answer]}
    with answers(BLOB_SERVICE, place, one=one, many=many, put=answer) as channel:
        blobs = RemoteBlobs(channel)
        for ask in (
            lambda: blobs.open_read(ABSENT),
            lambda: blobs.has(ABSENT),
            lambda: blobs.put(io.BytesIO(b"a").read),
        ):
            with pytest.raises(ServiceError, match="makes no sense"):
                ask()


def test_an_answer_with_another_digest(place: Path) -> None:
    put = b"\x0a\x20" + ABSENT
    with answers(BLOB_SERVICE, place, put=put) as channel:
        with pytest.raises(ServiceError, match=f"for {ABSENT}"):
            RemoteBlobs(channel).put(io.BytesIO(b"a").read)
        with pytest.raises(ServiceError, match="UNIMPLEMENTED"):
            RemoteBlobs(channel).has(ABSENT)


def test_a_tree_with_another_digest(place: Path) -> None:
    with (
        answers(DIRECTORY_SERVICE, place, put=b"\x0a\x20" + ABSENT) as channel,
        pytest.raises(ServiceError, match=f"for {ABSENT}"),
    ):
        RemoteDirectories(channel).put_tree(UP)


def encoded(tree: Iterable[Directory]) -> list[bytes]:
    return [directory.encode() for directory in tree]


@pytest.mark.parametrize(
    "sent",
    [
        encoded([A]),
        encoded([TOP, A, B]),
        encoded([TOP, above(A, B), A, EMPTY]),
        [*encoded([TOP]), b"\xff"],
        [TOP.encode() + b"\x22\x00"],
    ],
)
def test_trees_that_are_wrong(place: Path, sent: list[bytes]) -> None:
    with (
        answers(DIRECTORY_SERVICE, place, many={"Get": sent}) as channel,
        pytest.raises(StoreCorrupt),
    ):
        list(RemoteDirectories(channel).get_tree(TOP.digest) or ())


@pytest.mark.parametrize("sent", [A.encode(), b"", TOP.encode() + b"\x22\x00", b"\xff"])
def test_directories_that_are_wrong(place: Path, sent: bytes) -> None:
    with (
        answers(DIRECTORY_SERVICE, place, many={"Get": [sent]}) as channel,
        pytest.raises(StoreCorrupt, match=str(TOP.digest)[:20]),
    ):
        RemoteDirectories(channel).get(TOP.digest)


def test_a_service_that_fails_in_the_middle(place: Path) -> None:
    def fail(request: bytes) -> Iterator[bytes]:
        yield TOP.encode()
        raise Refused(Status.UNKNOWN, "disk on fire")

    with serving(f"unix:{place}/s", {DIRECTORY_SERVICE: {"Get": answering(fail)}}) as url:
        remote = RemoteDirectories.from_url(url)
        found = remote.get_tree(TOP.digest)
        assert found is not None
        assert next(found) == TOP
        with pytest.raises(ServiceError, match="disk on fire"):
            next(found)
        remote.close()
