"""Blobs and directories given out, and taken in, by gRPC as snix does: the methods of a server.

Statuses are snix's: INVALID_ARGUMENT for what cannot be a question, NOT_FOUND, INTERNAL for all
that goes wrong in a Put, UNKNOWN elsewhere. Beyond snix, blobs are hashed as they go out, and what
turns out damaged ends in DATA_LOSS. What comes in is hostile: one message of it at a time is held,
and of a tree the digests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Protocol, TypeVar, runtime_checkable

from blake3 import blake3

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.messages import (
    Chunk,
    decode_blob_chunk,
    decode_digest,
    decode_directory_request,
    encode_blob_chunk,
    encode_chunks,
    encode_digest,
)
from eka_runtime.castore.node import Directory
from eka_runtime.castore.services import Read, WritableBlobs, WritableDirectories
from eka_runtime.castore.tree_order import upward
from eka_runtime.errors import CastoreError, FormatError, StoreCorrupt
from eka_runtime.rpc.server import Methods, Refused, Status, answering, collecting, unary

MAX_DIRECTORIES = 1_000_000
"""In one tree that is taken in; some 200 bytes are kept for each."""

_SENT = 1 << 18  # bytes of a blob in one message; snix reads up to 4 MiB

T = TypeVar("T")


@runtime_checkable
class ChunkedBlobs(Protocol):
    """A BlobService that knows what its blobs consist of."""

    def chunks(self, digest: B3Digest) -> Sequence[Chunk] | None:
        """Empty when there is no list; None when there is no blob."""


def blob_methods(blobs: WritableBlobs) -> Methods:
    """Those of `snix.castore.v1.BlobService`."""

    def stat(request: bytes) -> bytes:
        digest = asked(lambda: decode_digest(request, "StatBlobRequest"))
        if isinstance(blobs, ChunkedBlobs):
            chunks = blobs.chunks(digest)
        else:
            chunks = () if blobs.has(digest) else None
        if chunks is None:
            raise Refused(Status.NOT_FOUND, f"no blob {digest}")
        return encode_chunks(chunks)

    def read(request: bytes) -> Iterator[bytes]:
        digest = asked(lambda: decode_digest(request, "ReadBlobRequest"))
        reader = blobs.open_read(digest)
        if reader is None:
            raise Refused(Status.NOT_FOUND, f"no blob {digest}")
        with reader:
            yield from _verified(digest, reader)

    def put(requests: Iterator[bytes]) -> bytes:
        return encode_digest(blobs.put(_reader(requests)))

    return {
        "Stat": unary(stat),
        "Read": answering(read),
        "Put": collecting(put, Status.INTERNAL),
    }


def _verified(digest: B3Digest, reader: BinaryIO) -> Iterator[bytes]:
    hasher = blake3()
    while data := reader.read(_SENT):
        hasher.update(data)
        yield encode_blob_chunk(data)
    if hasher.digest() != digest:
        raise StoreCorrupt(f"blob {digest} has contents with another digest")


def _reader(requests: Iterator[bytes]) -> Read:
    left = memoryview(b"")

    def read(size: int) -> bytes:
        nonlocal left
        while not left:
            message = next(requests, None)
            if message is None:
                return b""
            left = memoryview(decode_blob_chunk(message))
        data, left = left[:size], left[size:]
        return bytes(data)

    return read


def directory_methods(directories: WritableDirectories) -> Methods:
    """Those of `snix.castore.v1.DirectoryService`."""

    def get(request: bytes) -> Iterator[bytes]:
        digest, recursive = asked(lambda: decode_directory_request(request))
        if recursive:
            # A root that is not here is, for snix, a tree of no directories.
            for directory in directories.get_tree(digest) or ():
                yield directory.encode()
            return
        found = directories.get(digest)
        if found is None:
            raise Refused(Status.NOT_FOUND, f"no directory {digest}")
        yield found.encode()

    def put(requests: Iterator[bytes]) -> bytes:
        return encode_digest(directories.put_tree(upward(_bounded(requests))))

    return {"Get": answering(get), "Put": collecting(put, Status.INTERNAL)}


def _bounded(requests: Iterator[bytes]) -> Iterator[Directory]:
    for count, message in enumerate(requests):
        if count == MAX_DIRECTORIES:
            raise CastoreError(f"a tree of more than {MAX_DIRECTORIES} directories")
        yield Directory.decode(message)


def asked(decode: Callable[[], T]) -> T:
    """What `decode` makes of a request; Refused when it makes nothing of it."""
    try:
        return decode()
    except FormatError as error:
        raise Refused(Status.INVALID_ARGUMENT, str(error)) from error
