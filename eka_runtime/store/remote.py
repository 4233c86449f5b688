"""The path infos of a snix service at the other end of a gRPC channel.

They are what the service says: a signature, or a NAR made again, is what makes one true. Only that
an answer is about the path asked for is checked here.
"""

from __future__ import annotations

from collections.abc import Iterator

from eka_runtime.castore.node import Node, encode_entry
from eka_runtime.castore.render import NarDigest
from eka_runtime.errors import ServiceError
from eka_runtime.rpc.channel import Channel, NotFound
from eka_runtime.store.messages import (
    PATH_INFO_SERVICE,
    decode_nar_digest,
    decode_path_info,
    encode_path_info,
    encode_path_request,
)
from eka_runtime.store.pathinfo import PathInfo


class RemotePathInfos:
    """A PathInfoService. The channel stays open until it is closed, or no longer used."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @classmethod
    def from_url(cls, url: str) -> RemotePathInfos:
        """`grpc+unix:/path`, `grpc+http://host:port`, …; raises as `Channel`."""
        return cls(Channel(url))

    def by_hash(self, digits: str) -> PathInfo | None:
        """Raises ServiceError, also for an answer that makes no sense; so does all below."""
        try:
            answer = self._channel.call(f"/{PATH_INFO_SERVICE}/Get", encode_path_request(digits))
        except NotFound:
            return None
        info = self._decode(answer)
        if info.path.hash != digits:
            raise ServiceError(f"{self._channel.url} was asked for {digits}, not for {info.path}")
        return info

    def put(self, info: PathInfo) -> PathInfo:
        """The service must have the contents already."""
        answer = self._channel.call(f"/{PATH_INFO_SERVICE}/Put", encode_path_info(info))
        recorded = self._decode(answer)
        if recorded.path != info.path:
            raise ServiceError(f"{self._channel.url} recorded {recorded.path}, not {info.path}")
        return recorded

    def all(self) -> Iterator[PathInfo]:
        """In no certain order; some services refuse."""
        with self._channel.receive(f"/{PATH_INFO_SERVICE}/List", b"") as incoming:
            for message in incoming:
                yield self._decode(message)

    def calculate_nar(self, node: Node) -> NarDigest:
        """Lets the service make the NAR of a tree that it has."""
        answer = self._channel.call(f"/{PATH_INFO_SERVICE}/CalculateNAR", encode_entry(node))
        return self._channel.understood(lambda: decode_nar_digest(answer))

    def close(self) -> None:
        self._channel.close()

    def _decode(self, message: bytes) -> PathInfo:
        return self._channel.understood(lambda: decode_path_info(message))
