"""Snix's two faces at once: what lies in an object store is given out by gRPC, and taken in so."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.objectstore import ObjectBlobs
from eka_runtime.castore.objectstore_directories import ObjectDirectories
from eka_runtime.castore.remote import RemoteBlobs, RemoteDirectories
from eka_runtime.errors import StoreCorrupt
from eka_runtime.rpc.channel import Channel
from eka_runtime.store.served import serve
from tests.unit.castore.test_tree_order import DOWN, UP, A
from tests.unit.nix.vectors import by_id
from tests.unit.rpc.memory import MemoryPaths

# The blob of the vector, which has two chunks.
CONTENTS = bytes(range(255)) * 4096
EXPECTED = by_id("castore/blob/BLOB_B")["output"]
DIGEST = B3Digest.fromhex(EXPECTED["b3_hex"])
TOP = UP[-1]


@dataclass
class Objects:
    blobs: ObjectBlobs
    directories: ObjectDirectories
    paths: MemoryPaths = field(default_factory=MemoryPaths)

    @classmethod
    def below(cls, place: Path) -> Objects:
        url = f"objectstore+file://{place}/objects"
        return cls(ObjectBlobs.from_url(url), ObjectDirectories.from_url(url))


@pytest.fixture
def channel(place: Path) -> Iterator[Channel]:
    with serve(Objects.below(place), f"unix:{place}/s") as url:
        opened = Channel(url)
        yield opened
        opened.close()


def contents(blobs: RemoteBlobs | ObjectBlobs, digest: B3Digest) -> bytes:
    reader = blobs.open_read(digest)
    assert reader is not None
    with reader:
        return b"".join(iter(lambda: reader.read(1 << 20), b""))


def test_what_is_written_to_the_object_store_is_read_by_grpc(place: Path, channel: Channel) -> None:
    objects = Objects.below(place)
    assert objects.blobs.put(io.BytesIO(CONTENTS).read) == DIGEST
    blobs = RemoteBlobs(channel)
    assert contents(blobs, DIGEST) == CONTENTS
    chunks = blobs.chunks(DIGEST) or ()
    assert [(one.digest.hex(), one.size) for one in chunks] == [
        (one["b3_hex"], one["size"]) for one in EXPECTED["chunks_default"]
    ]
    # Each of them is a blob for whoever reads.
    assert b"".join(contents(blobs, one.digest) for one in chunks) == CONTENTS
    small = objects.blobs.put(io.BytesIO(b"small").read)
    assert blobs.chunks(small) == ()
    assert objects.directories.put_tree(UP) == TOP.digest
    directories = RemoteDirectories(channel)
    assert list(directories.get_tree(TOP.digest) or ()) == DOWN
    assert directories.get(TOP.digest) == TOP
    assert directories.get(A.digest) is None


def test_what_is_written_by_grpc_is_read_from_the_object_store(
    place: Path, channel: Channel
) -> None:
    for data in (CONTENTS, b"small", b""):
        digest = RemoteBlobs(channel).put(io.BytesIO(data).read)
        assert digest == B3Digest.of(data)
        assert contents(Objects.below(place).blobs, digest) == data
    assert RemoteDirectories(channel).put_tree(UP) == TOP.digest
    assert list(Objects.below(place).directories.get_tree(TOP.digest) or ()) == DOWN


def test_a_chunk_that_is_gone(place: Path, channel: Channel) -> None:
    Objects.below(place).blobs.put(io.BytesIO(CONTENTS).read)
    last = EXPECTED["chunks_default"][-1]["b3_hex"]
    [file] = (place / "objects" / "chunks").rglob(last)
    file.unlink()
    blobs = RemoteBlobs(channel)
    with pytest.raises(StoreCorrupt):
        contents(blobs, DIGEST)
