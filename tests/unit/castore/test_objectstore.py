"""Blobs in an object store: byte for byte as snix lays them out, and against malice."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.castore import objectstore
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.messages import Chunk, decode_chunks, encode_chunks
from eka_runtime.castore.objects import MemoryObjects, Objects, read_object
from eka_runtime.castore.objectstore import ObjectBlobs
from eka_runtime.castore.services import require_blob
from eka_runtime.errors import CastoreError, StoreCorrupt, UsageError
from tests.unit.nix.trees import in_pieces
from tests.unit.nix.vectors import by_id

HELLO = b"Hello World!"
EMPTY = B3Digest.of(b"")
# Chunks of 256 to 1024 bytes: a blob of a few kilobytes has several.
AVERAGE = 512


def _random(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def _put(blobs: ObjectBlobs, data: bytes) -> B3Digest:
    return blobs.put(io.BytesIO(data).read)


def _read(blobs: ObjectBlobs, digest: B3Digest) -> bytes:
    with require_blob(blobs, digest) as reader:
        return reader.read()


def _key(kind: str, digest: B3Digest) -> str:
    return f"{kind}/b3/{digest.hex()[:4]}/{digest.hex()}"


def _object(objects: Objects, kind: str, digest: B3Digest) -> bytes:
    data = read_object(objects, _key(kind, digest), 1 << 30)
    assert data is not None
    return data


class Counted(MemoryObjects):
    """Remembers the requests, and fails those that it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, str]] = []
        self.fails: Callable[[str, str], bool] = lambda verb, key: False

    def _count(self, verb: str, key: str) -> None:
        self.requests.append((verb, key))
        if self.fails(verb, key):
            raise ZeroDivisionError

    def head(self, key: str) -> int | None:
        self._count("head", key)
        return super().head(key)

    def get(self, key: str) -> BinaryIO | None:
        self._count("get", key)
        return super().get(key)

    def put(self, key: str, content: bytes | BinaryIO, *, replace: bool = False) -> None:
        self._count("put", key)
        super().put(key, content, replace=replace)


@pytest.fixture
def objects() -> Counted:
    return Counted()


@pytest.fixture
def blobs(objects: Counted) -> ObjectBlobs:
    return ObjectBlobs(objects, average=AVERAGE)


def test_a_blob_of_one_chunk_lies_where_snix_has_it(tmp_path: Path) -> None:
    expected = by_id("objectstore/blob-path")["output"]
    blobs = ObjectBlobs.from_url(f"objectstore+file://{tmp_path}/b")
    digest = _put(blobs, HELLO)
    root = os.fspath(tmp_path)
    files = {os.path.join(at, name) for at, _, names in os.walk(root) for name in names}
    assert files == {root + expected["index"], root + expected["chunk"]}
    assert Path(root + expected["index"]).read_bytes().hex() == expected["index_bytes_hex"]
    assert _read(blobs, digest) == HELLO


def test_a_base_goes_before_the_keys() -> None:
    objects = MemoryObjects()
    _put(ObjectBlobs(objects, "some/base"), HELLO)
    digits = B3Digest.of(HELLO).hex()
    assert sorted(objects.list("some")) == [
        f"some/base/blobs/b3/{digits[:4]}/{digits}",
        f"some/base/chunks/b3/{digits[:4]}/{digits}",
    ]


def test_a_blob_of_several_chunks_has_snixs_list_of_them(objects: Counted) -> None:
    data = bytes(range(255)) * 4096
    expected = by_id("castore/blob/BLOB_B")["output"]
    digest = _put(ObjectBlobs(objects), data)
    assert digest.hex() == expected["b3_hex"]
    assert _object(objects, "blobs", digest).hex() == expected["stat_response_hex"]
    for chunk in expected["chunks_default"]:
        frame = _object(objects, "chunks", B3Digest.fromhex(chunk["b3_hex"]))
        contents = zstandard.ZstdDecompressor().decompressobj().decompress(frame)
        assert len(contents) == chunk["size"]


@pytest.mark.parametrize("size", [1, 12, 200_000, 600_000])
def test_frames_are_those_of_a_streaming_encoder(objects: Counted, size: int) -> None:
    digest = _put(ObjectBlobs(objects), bytes(size))
    chunk = ObjectBlobs(objects).chunks(digest) or [Chunk(digest, size)]
    frame = _object(objects, "chunks", chunk[0].digest)
    # RFC 8878: magic; no content size, checksum or dictionary; a window of 2 MiB, as level 3 has.
    assert frame[:6] == bytes.fromhex("28b52ffd 00 58")
    parameters = zstandard.get_frame_parameters(frame)
    assert parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN
    assert not parameters.has_checksum


def test_the_empty_blob_needs_no_object(blobs: ObjectBlobs, objects: Counted) -> None:
    assert _read(blobs, EMPTY) == b""
    assert objects.requests == []
    assert not blobs.has(EMPTY)
    assert _put(blobs, b"") == EMPTY
    assert blobs.has(EMPTY)
    assert blobs.chunks(EMPTY) == []
    assert [key for verb, key in objects.requests if verb == "put"] == [_key("blobs", EMPTY)]


def test_what_is_not_there_is_none(blobs: ObjectBlobs) -> None:
    missing = B3Digest.of(b"missing")
    assert not blobs.has(missing)
    assert blobs.open_read(missing) is None
    assert blobs.chunks(missing) is None


@given(st.integers(0, 20_000), st.integers(1, 5000), st.integers(0, 3))
def test_what_was_put_is_read(size: int, piece: int, seed: int) -> None:
    objects = MemoryObjects()
    blobs, data = ObjectBlobs(objects, average=AVERAGE), _random(size, seed)
    digest = blobs.put(in_pieces(data, piece))
    assert digest == B3Digest.of(data)
    assert blobs.has(digest)
    assert _read(blobs, digest) == data
    listed = blobs.chunks(digest)
    assert listed is not None
    assert len(listed) != 1
    assert sum(chunk.size for chunk in listed) == (size if listed else 0)
    # Each chunk is a blob as well.
    ends = accumulate(chunk.size for chunk in listed)
    for chunk, end in zip(listed, ends, strict=True):
        assert blobs.has(chunk.digest)
        assert _read(blobs, chunk.digest) == data[end - chunk.size : end]


@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 3000)), max_size=8))
def test_reading_may_begin_anywhere(places: list[tuple[int, int]]) -> None:
    data = _random(8000)
    blobs = ObjectBlobs(MemoryObjects(), average=AVERAGE)
    with require_blob(blobs, _put(blobs, data)) as reader:
        assert reader.seekable()
        for offset, size in places:
            assert reader.seek(offset) == reader.tell() == offset
            found = b""
            while len(found) < size and (piece := reader.read(size - len(found))):
                found += piece
            assert found == data[offset : offset + size]


def test_seeking_is_that_of_files(blobs: ObjectBlobs) -> None:
    data = _random(5000)
    with require_blob(blobs, _put(blobs, data)) as reader:
        assert reader.seek(-10, os.SEEK_END) == 4990
        assert reader.read() == data[-10:]
        assert reader.read() == b""
        assert reader.seek(-4000, os.SEEK_CUR) == 1000
        assert reader.read(1) == data[1000:1001]
        with pytest.raises(ValueError, match="negative position: -1"):
            reader.seek(-1)
        assert reader.seek(9000) == 9000
        assert reader.read(1) == b""


def test_only_what_is_new_is_uploaded(blobs: ObjectBlobs, objects: Counted) -> None:
    data = _random(50_000)
    _put(blobs, data)
    objects.requests.clear()
    _put(blobs, data)
    assert [key for verb, key in objects.requests if verb == "put"] == [
        _key("blobs", B3Digest.of(data))
    ]
    objects.requests.clear()
    changed = data[:25_000] + b"inserted" + data[25_000:]
    _put(blobs, changed)
    uploaded = [key for verb, key in objects.requests if verb == "put"]
    assert 2 <= len(uploaded) < 8
    assert uploaded[-1] == _key("blobs", B3Digest.of(changed))
    assert _read(blobs, B3Digest.of(changed)) == changed


def test_a_small_blob_costs_one_request(blobs: ObjectBlobs, objects: Counted) -> None:
    digest = _put(blobs, HELLO)
    objects.requests.clear()
    assert _read(blobs, digest) == HELLO
    assert objects.requests == [("get", _key("chunks", digest))]


@pytest.mark.parametrize("failing", [1, 40])
def test_a_failed_upload_is_no_blob_and_leaves_no_threads(
    blobs: ObjectBlobs, objects: Counted, failing: int
) -> None:
    data = _random(50_000)

    def fails(verb: str, _: str) -> bool:
        return verb == "put" and sum(verb == "put" for verb, _ in objects.requests) >= failing

    objects.fails = fails
    with pytest.raises(ZeroDivisionError):
        _put(blobs, data)
    objects.fails = lambda verb, key: False
    assert list(objects.list("blobs")) == []
    assert not blobs.has(B3Digest.of(data))
    assert _threads() == []
    assert _read(blobs, _put(blobs, data)) == data


def test_contents_that_cannot_be_read_are_no_blob(blobs: ObjectBlobs, objects: Counted) -> None:
    source = io.BytesIO(_random(3_000_000))

    def read(size: int) -> bytes:
        return source.read(size) or 1 // 0  # type: ignore[return-value]

    with pytest.raises(ZeroDivisionError):
        blobs.put(read)
    assert list(objects.list("blobs")) == []
    assert _threads() == []


def test_the_list_of_chunks_is_not_longer_than_can_be_read(
    blobs: ObjectBlobs, objects: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectstore, "_MAX_INDEX", 1000)
    with pytest.raises(CastoreError, match="has too many chunks of 512 bytes"):
        _put(blobs, _random(50_000))
    assert list(objects.list("blobs")) == []


def _threads() -> list[str]:
    """Those of the object store: other tests of this process may have threads of their own."""
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith("eka-") and name != "eka-fuse"]


def test_a_reader_that_is_left_early_leaves_no_threads(blobs: ObjectBlobs) -> None:
    data = _random(100_000)
    with require_blob(blobs, _put(blobs, data)) as reader:
        assert reader.read(10) == data[:10]
        assert _threads()
    assert _threads() == []
    with pytest.raises(ValueError, match="closed"):
        reader.read(1)


def test_what_comes_next_is_asked_for_beforehand_and_each_chunk_once(
    blobs: ObjectBlobs, objects: Counted
) -> None:
    data = _random(50_000)
    digest = _put(blobs, data)
    objects.requests.clear()
    assert _read(blobs, digest) == data
    gets = [key for verb, key in objects.requests if verb == "get"]
    # The chunk that could have been the only one, the list, and what is in it.
    listed = blobs.chunks(digest)
    assert listed is not None
    assert sorted(gets[2:]) == sorted(_key("chunks", chunk.digest) for chunk in listed)
    objects.requests.clear()
    with require_blob(blobs, digest) as reader:
        reader.seek(40_000)
        reader.read(1)
    assert len([key for verb, key in objects.requests if verb == "get"]) == 3


def test_several_threads_share_one_service(blobs: ObjectBlobs) -> None:
    contents = [_random(30_000, seed) for seed in range(8)]
    found: dict[int, bytes] = {}

    def work(number: int) -> None:
        found[number] = _read(blobs, _put(blobs, contents[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(8)] == contents


def _compress(data: bytes, level: int = 3) -> bytes:
    return zstandard.ZstdCompressor(level).compress(data)


Damage = Callable[[bytes], bytes]

DAMAGES: dict[str, Damage] = {
    "flipped": lambda frame: frame[:-5] + bytes([frame[-5] ^ 1]) + frame[-4:],
    "cut off": lambda frame: frame[:-5],
    "cut off in the header": lambda frame: frame[:3],
    "empty": lambda frame: b"",
    "not zstd": lambda frame: b"x" * len(frame),
    "other contents": lambda frame: _compress(b"other"),
    "more contents": lambda frame: _compress(
        zstandard.ZstdDecompressor().decompressobj().decompress(frame) + b"more"
    ),
    "a bomb": lambda frame: _compress(bytes(1 << 25)),
    "a window of 128 MiB": lambda frame: bytes.fromhex("28b52ffd 00 88") + frame[6:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
@pytest.mark.parametrize("size", [300, 3000])
def test_a_damaged_chunk_is_never_given_out(
    blobs: ObjectBlobs, objects: Counted, damage: Damage, size: int
) -> None:
    data = _random(size)
    digest = _put(blobs, data)
    chunk = (blobs.chunks(digest) or [Chunk(digest, size)])[-1]
    key = _key("chunks", chunk.digest)
    objects.put(key, damage(_object(objects, "chunks", chunk.digest)), replace=True)
    if size == 3000 and damage is DAMAGES["a window of 128 MiB"]:
        # Where the size is known, no window is kept, and the contents are right.
        assert _read(blobs, digest) == data
        return
    with pytest.raises(StoreCorrupt, match="chunks/b3/") as caught:
        _read(blobs, digest)
    assert caught.value.hint


def _listed(blobs: ObjectBlobs, objects: Counted, data: bytes) -> list[Chunk]:
    return list(decode_chunks(_object(objects, "blobs", _put(blobs, data))))


INDEXES: dict[str, tuple[Callable[[list[Chunk]], bytes], str]] = {
    "one chunk less": (lambda chunks: encode_chunks(chunks[:-1]), "not its own"),
    "one chunk twice": (lambda chunks: encode_chunks([*chunks, chunks[-1]]), "not its own"),
    "other order": (lambda chunks: encode_chunks(chunks[::-1]), "not its own"),
    "missing chunk": (
        lambda chunks: encode_chunks([*chunks, Chunk(B3Digest.of(b"missing"), 7)]),
        "is missing",
    ),
    "smaller": (lambda chunks: encode_chunks([_grown(chunks[0], -1)]), "chunks/b3/"),
    "larger": (lambda chunks: encode_chunks([_grown(chunks[0], 1)]), "bytes, not"),
    "no size": (lambda chunks: encode_chunks([Chunk(chunks[0].digest, 0)]), "does not have 1 to"),
    "huge": (lambda chunks: encode_chunks([_grown(chunks[0], 1 << 40)]), "does not have 1 to"),
    "cut off": (lambda chunks: encode_chunks(chunks)[:-1], "truncated"),
    "short digest": (lambda chunks: b"\x12\x05\x0a\x01x\x10\x01", "a digest has 32 bytes"),
    "empty": (lambda chunks: b"", "its only chunk is missing"),
    "too long": (lambda chunks: bytes(2000), "has more than 1000 bytes"),
}


def _grown(chunk: Chunk, by: int) -> Chunk:
    return Chunk(chunk.digest, chunk.size + by)


@pytest.mark.parametrize(("tamper", "message"), INDEXES.values(), ids=list(INDEXES))
def test_a_tampered_list_of_chunks_is_never_believed(
    blobs: ObjectBlobs,
    objects: Counted,
    monkeypatch: pytest.MonkeyPatch,
    tamper: Callable[[list[Chunk]], bytes],
    message: str,
) -> None:
    data = _random(5000)
    listed = _listed(blobs, objects, data)
    digest = B3Digest.of(data)
    objects.put(_key("blobs", digest), tamper(listed), replace=True)
    monkeypatch.setattr(objectstore, "_MAX_INDEX", 1000)
    with pytest.raises(StoreCorrupt, match=message):
        _read(blobs, digest)


def test_the_last_chunk_of_a_wrong_blob_stays_unread(blobs: ObjectBlobs, objects: Counted) -> None:
    data = _random(5000)
    listed = _listed(blobs, objects, data)
    digest = B3Digest.of(b"other")
    objects.put(_key("blobs", digest), encode_chunks(listed))
    with require_blob(blobs, digest) as reader:
        found = bytearray()
        for _ in listed[:-1]:
            found += reader.read(1024)
        assert found == data[: len(data) - listed[-1].size]
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match="not its own"):
                reader.read(1024)


def test_other_chunks_than_ours_are_as_good(blobs: ObjectBlobs, objects: Counted) -> None:
    pieces = [b"a", _random(100_000), b"bc", b"a"]
    for piece in pieces:
        frame = _compress(piece, level=19)
        objects.put(_key("chunks", B3Digest.of(piece)), frame)
    # With an outboard, which none writes yet.
    index = encode_chunks(Chunk(B3Digest.of(piece), len(piece)) for piece in pieces) + b"\x1a\x01x"
    digest = B3Digest.of(b"".join(pieces))
    objects.put(_key("blobs", digest), index)
    assert _read(blobs, digest) == b"".join(pieces)


def test_an_average_size_that_snix_would_not_take_is_refused() -> None:
    with pytest.raises(UsageError, match="average chunk size 100"):
        ObjectBlobs(MemoryObjects(), average=100)


# A blob of half a gigabyte, of which no two chunks are alike, there and back.
_COPY = """
import random, sys
from eka_runtime.castore.objectstore import ObjectBlobs

block, left = random.Random(1).randbytes(1 << 20), 512

def read(size):
    global left
    left -= 1
    return (left.to_bytes(8, "big") + block[left:])[:size] if left >= 0 else b""

blobs = ObjectBlobs.from_url(sys.argv[1])
with blobs.open_read(blobs.put(read)) as reader:
    while reader.read(1 << 18):
        pass
status = open("/proc/self/status").read()
print(status.partition("VmHWM:")[2].split()[0])
"""


def test_memory_does_not_grow_with_the_blob(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _COPY, f"objectstore+file://{tmp_path}"]
    peak = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    assert int(peak) < 100 << 10
