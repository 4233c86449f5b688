"""The messages of snix's BlobService and DirectoryService, beside the directories themselves.

Those of `snix.castore.v1`, with field numbers; `Directory` and `Entry` are in `node.py`:

    StatBlobRequest       digest (1), send_chunks (2), send_bao (3)
    StatBlobResponse      chunks (2)*: digest (1), size (2)
    ReadBlobRequest       digest (1)
    BlobChunk             data (1)
    PutBlobResponse       digest (1)
    GetDirectoryRequest   digest (1), recursive (2)
    PutDirectoryResponse  root_digest (1)

A StatBlobResponse is also what an object store keeps for a blob of several chunks. None of these is
ever hashed, so fields that are not known are skipped, as protobuf demands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.protobuf import ProtobufError, fields, varint
from eka_runtime.errors import CastoreError

BLOB_SERVICE = "snix.castore.v1.BlobService"
DIRECTORY_SERVICE = "snix.castore.v1.DirectoryService"

_RECURSIVE = b"\x10\x01"


class Chunk(NamedTuple):
    """One piece of a blob, under its own digest; `size` in bytes."""

    digest: B3Digest
    size: int


class DirectoryRequest(NamedTuple):
    """A GetDirectoryRequest."""

    digest: B3Digest
    recursive: bool = False


def encode_bytes(number: int, data: bytes) -> bytes:
    """A field of bytes, text or a message; nothing when it is empty."""
    return varint(number << 3 | 2) + varint(len(data)) + data if data else b""


def encode_number(number: int, value: int) -> bytes:
    """A field with a number; nothing when it is 0."""
    return varint(number << 3) + varint(value) if value else b""


def known_fields(
    data: bytes, message: str, texts: Iterable[int], numbers: Iterable[int] = ()
) -> Iterator[tuple[int, int | bytes]]:
    """The fields of these numbers, of the wire type they must have; CastoreError otherwise."""
    kinds: dict[int, type] = dict.fromkeys(texts, bytes) | dict.fromkeys(numbers, int)
    try:
        found = fields(data)
    except ProtobufError as error:
        raise CastoreError(f"invalid {message}: {error}") from error
    for number, value in found:
        kind = kinds.get(number)
        if kind is not None and not isinstance(value, kind):
            raise CastoreError(f"invalid {message}: field {number} has the wrong wire type")
        if kind is not None:
            yield number, value


def encode_digest(digest: B3Digest) -> bytes:
    """Every message whose one field is a digest: requests of Stat and Read, answers of both Put."""
    return encode_bytes(1, digest)


def decode_digest(data: bytes, message: str = "message") -> B3Digest:
    """Raises CastoreError when there is no digest in field 1."""
    raw = b""
    for _, value in known_fields(data, message, [1]):
        raw = value if isinstance(value, bytes) else raw
    return B3Digest(raw)


def encode_blob_chunk(data: bytes) -> bytes:
    return encode_bytes(1, data)


def decode_blob_chunk(data: bytes) -> bytes:
    contents = b""
    for _, value in known_fields(data, "BlobChunk", [1]):
        contents = value if isinstance(value, bytes) else contents
    return contents


def encode_chunks(chunks: Iterable[Chunk]) -> bytes:
    """A StatBlobResponse; no bytes at all for a blob whose chunks are not known."""
    return b"".join(
        encode_bytes(2, encode_bytes(1, digest) + encode_number(2, size)) for digest, size in chunks
    )


def decode_chunks(data: bytes) -> tuple[Chunk, ...]:
    """The chunks of a StatBlobResponse: empty when they are not known, not when the blob is."""
    found = known_fields(data, "StatBlobResponse", [2])
    return tuple(_decode_chunk(value) for _, value in found if isinstance(value, bytes))


def _decode_chunk(data: bytes) -> Chunk:
    digest, size = b"", 0
    for _, value in known_fields(data, "ChunkMeta", [1], [2]):
        if isinstance(value, bytes):
            digest = value
        else:
            size = value
    return Chunk(B3Digest(digest), size)


def encode_directory_request(request: DirectoryRequest) -> bytes:
    return encode_digest(request.digest) + (_RECURSIVE if request.recursive else b"")


def decode_directory_request(data: bytes) -> DirectoryRequest:
    """Raises CastoreError, also when it does not say which directory."""
    raw, recursive = b"", False
    for _, value in known_fields(data, "GetDirectoryRequest", [1], [2]):
        if isinstance(value, bytes):
            raw = value
        else:
            recursive = bool(value)
    return DirectoryRequest(B3Digest(raw), recursive)
