"""The messages of the services, against protobuf in both directions, and against malice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.messages import (
    Chunk,
    DirectoryRequest,
    decode_blob_chunk,
    decode_chunks,
    decode_digest,
    decode_directory_request,
    encode_blob_chunk,
    encode_chunks,
    encode_digest,
    encode_directory_request,
)
from eka_runtime.errors import CastoreError
from tests.unit.castore.descriptors import message, wire
from tests.unit.castore.test_node import digests

D = B3Digest(bytes(range(32)))

chunks = st.lists(st.builds(Chunk, digests, st.integers(0, 2**64 - 1)), max_size=5).map(tuple)


@pytest.mark.parametrize("name", ["StatBlobRequest", "ReadBlobRequest", "PutBlobResponse"])
@given(digests)
def test_digests_are_those_of_protobuf(name: str, digest: B3Digest) -> None:
    theirs = wire(message(name)(digest=digest))
    assert encode_digest(digest) == theirs
    assert decode_digest(theirs) == digest


@given(digests)
def test_the_root_of_a_tree_is_that_of_protobuf(digest: B3Digest) -> None:
    assert encode_digest(digest) == wire(message("PutDirectoryResponse")(root_digest=digest))


@given(st.binary(max_size=300))
def test_blob_chunks_are_those_of_protobuf(data: bytes) -> None:
    theirs = wire(message("BlobChunk")(data=data))
    assert encode_blob_chunk(data) == theirs
    assert decode_blob_chunk(theirs) == data


@given(chunks)
def test_lists_of_chunks_are_those_of_protobuf(found: tuple[Chunk, ...]) -> None:
    metas = [message("ChunkMeta")(digest=digest, size=size) for digest, size in found]
    theirs = wire(message("StatBlobResponse")(chunks=metas))
    assert encode_chunks(found) == theirs
    assert decode_chunks(theirs) == found
    outboard = wire(message("StatBlobResponse")(chunks=metas, bao=b"outboard"))
    assert decode_chunks(outboard) == found


@given(digests, st.booleans())
def test_requests_for_directories_are_those_of_protobuf(digest: B3Digest, recursive: bool) -> None:
    theirs = wire(message("GetDirectoryRequest")(digest=digest, recursive=recursive))
    assert encode_directory_request(DirectoryRequest(digest, recursive)) == theirs
    assert decode_directory_request(theirs) == (digest, recursive)


def test_flags_of_a_request_do_not_matter() -> None:
    asked = wire(message("StatBlobRequest")(digest=D, send_chunks=True, send_bao=True))
    assert decode_digest(asked) == D


@pytest.mark.parametrize(
    ("decode", "data", "problem"),
    [
        (decode_digest, b"", "32 bytes, not 0"),
        (decode_digest, b"\x0a\x1f" + bytes(31), "32 bytes, not 31"),
        (decode_digest, b"\x0a\x21" + bytes(33), "32 bytes, not 33"),
        (decode_digest, b"\x0a\x20" + bytes(31), "truncated"),
        (decode_digest, b"\x08\x20", "wrong wire type"),
        (decode_digest, b"\x0d" + bytes(4), "wire type 5"),
        (decode_blob_chunk, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "64 bits"),
        (decode_blob_chunk, b"\x0a\xff\xff\xff\xff\x0f", "truncated"),
        (decode_chunks, b"\x12\x02\x10\x01", "32 bytes, not 0"),
        (decode_chunks, b"\x10\x02", "wrong wire type"),
        (decode_chunks, b"\x12\x02\x12\x00", "wrong wire type"),
        (decode_directory_request, b"\x10\x01", "32 bytes, not 0"),
        (decode_directory_request, b"\x12\x01a", "wrong wire type"),
    ],
)
def test_malformed_messages_are_refused(
    decode: Callable[[bytes], object], data: bytes, problem: str
) -> None:
    with pytest.raises(CastoreError, match=problem):
        decode(data)


@given(st.binary(max_size=60))
def test_anything_is_decoded_or_refused(data: bytes) -> None:
    for decode in (decode_digest, decode_blob_chunk, decode_chunks, decode_directory_request):
        try:
            decode(data)
        except CastoreError:
            continue
