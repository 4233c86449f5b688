"""The blobs and directories of a snix service at the other end of a gRPC channel.

Nothing it says is believed: contents that do not have the digest asked for end in StoreCorrupt.
Constraint: one message holds a whole directory, and most services take and give at most 4 MiB of
it, which is some 60 000 entries. Out of scope: keeping anything (`layered.py`), and reading parts
of a blob, which no digest would vouch for.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import BinaryIO, cast

from blake3 import blake3

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.directories import decode_verified
from eka_runtime.castore.messages import (
    BLOB_SERVICE,
    DIRECTORY_SERVICE,
    Chunk,
    DirectoryRequest,
    decode_blob_chunk,
    decode_chunks,
    decode_digest,
    encode_blob_chunk,
    encode_digest,
    encode_directory_request,
)
from eka_runtime.castore.node import Directory
from eka_runtime.castore.services import Read
from eka_runtime.castore.tree_order import downward, upward
from eka_runtime.castore.verified import VerifiedReader
from eka_runtime.errors import CastoreError, ServiceError, StoreCorrupt
from eka_runtime.rpc.channel import Channel, Incoming, NotFound

_SENT = 1 << 18  # bytes of a blob in one message; snix reads up to 4 MiB


class RemoteBlobs:
    """A WritableBlobs. The channel stays open until it is closed, or no longer used by anyone."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @classmethod
    def from_url(cls, url: str) -> RemoteBlobs:
        """`grpc+unix:/path`, `grpc+http://host:port`, …; raises as `Channel`."""
        return cls(Channel(url))

    def has(self, digest: B3Digest) -> bool:
        return self.chunks(digest) is not None

    def chunks(self, digest: B3Digest) -> tuple[Chunk, ...] | None:
        """What the blob consists of, as the service says; empty when it keeps no such list."""
        try:
            answer = self._channel.call(f"/{BLOB_SERVICE}/Stat", encode_digest(digest))
        except NotFound:
            return None
        return self._channel.understood(lambda: decode_chunks(answer))

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        """Verified: the last bytes are given out when the digest of all was found right.

        Not seekable. Raises StoreCorrupt and ServiceError, also in the middle of reading.
        """
        incoming = self._channel.receive(f"/{BLOB_SERVICE}/Read", encode_digest(digest))
        channel = self._channel
        receive = partial(_contents, channel, incoming)
        reader = VerifiedReader(digest, channel.url, receive, incoming.close)
        try:
            reader.start()
        except NotFound:
            reader.close()
            return None
        except BaseException:
            reader.close()
            raise
        return cast(BinaryIO, reader)

    def put(self, read: Read) -> B3Digest:
        """`read` is called by another thread, and never again when this has returned.

        Whatever it raises is raised here, and the service then has nothing to keep.
        """
        hasher = blake3()

        def messages() -> Generator[bytes, None, None]:
            while data := read(_SENT):
                hasher.update(data)
                yield encode_blob_chunk(data)

        answer = self._channel.send(f"/{BLOB_SERVICE}/Put", messages())
        return _same(self._channel, B3Digest(hasher.digest()), answer)

    def close(self) -> None:
        self._channel.close()


class RemoteDirectories:
    """A WritableDirectories. The channel is as that of RemoteBlobs."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @classmethod
    def from_url(cls, url: str) -> RemoteDirectories:
        """Raises as `Channel`."""
        return cls(Channel(url))

    def get(self, digest: B3Digest) -> Directory | None:
        with self._request(DirectoryRequest(digest)) as incoming:
            try:
                answer = next(incoming, None)
            except NotFound:
                return None
            return None if answer is None else decode_verified(digest, answer)

    def get_tree(self, digest: B3Digest) -> Iterator[Directory] | None:
        """Raises ServiceError as well, as does everything here."""
        incoming = self._request(DirectoryRequest(digest, recursive=True))
        try:
            first = next(incoming, None)
        except NotFound:
            first = None
        except BaseException:
            incoming.close()
            raise
        # For snix a root that is not there is a tree of no directories.
        if first is None:
            incoming.close()
            return None
        return downward(digest, self._decoded(first, incoming))

    def _decoded(self, first: bytes, incoming: Incoming) -> Iterator[Directory]:
        with incoming:
            yield _decode(first)
            for data in incoming:
                yield _decode(data)

    def put_tree(self, directories: Iterable[Directory]) -> B3Digest:
        """`directories` is iterated by another thread, and left alone when this has returned."""
        root: list[B3Digest] = []

        def messages() -> Generator[bytes, None, None]:
            for directory in upward(directories):
                root[:] = [directory.digest]
                yield directory.encode()

        answer = self._channel.send(f"/{DIRECTORY_SERVICE}/Put", messages())
        if not root:
            raise ServiceError(f"{self._channel.url}: the service answered before it was asked")
        return _same(self._channel, root[0], answer)

    def close(self) -> None:
        self._channel.close()

    def _request(self, request: DirectoryRequest) -> Incoming:
        method = f"/{DIRECTORY_SERVICE}/Get"
        return self._channel.receive(method, encode_directory_request(request))


def _decode(data: bytes) -> Directory:
    # `downward` compares the digest, which that of a canonical encoding is.
    try:
        return Directory.decode(data)
    except CastoreError as error:
        raise StoreCorrupt(f"a directory of another service: {error}") from error


def _same(channel: Channel, digest: B3Digest, answer: bytes) -> B3Digest:
    theirs = channel.understood(lambda: decode_digest(answer, "answer to Put"))
    if theirs != digest:
        raise ServiceError(f"{channel.url}: the service took {digest} for {theirs}")
    return digest


def _contents(channel: Channel, incoming: Incoming) -> bytes:
    """Of the next message that has some; b"" at the end."""
    for message in incoming:
        if data := channel.understood(lambda: decode_blob_chunk(message)):  # noqa: B023
            return data
    return b""
