"""The three kinds of service that a store is made of, and which implementations each has.

Implementations are imported when one is made: they need libraries that may not be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from eka_runtime.castore.layered import LayeredBlobs, LayeredDirectories
from eka_runtime.castore.services import WritableBlobs, WritableDirectories
from eka_runtime.store.layered_paths import LayeredPathInfos
from eka_runtime.store.services import PathInfoService

if TYPE_CHECKING:
    from eka_runtime.rpc.channel import Channel

S = TypeVar("S")
Options = Mapping[str, str]


class Kind(NamedTuple, Generic[S]):
    """One of the three kinds of service, and how its services are made."""

    noun: str
    table: str
    remote: Callable[[Channel], S]
    objects: Callable[[str, Options, int | None], S]
    layered: Callable[[S, S], S]


def _remote_blobs(channel: Channel) -> WritableBlobs:
    from eka_runtime.castore.remote import RemoteBlobs

    return RemoteBlobs(channel)


def _remote_directories(channel: Channel) -> WritableDirectories:
    from eka_runtime.castore.remote import RemoteDirectories

    return RemoteDirectories(channel)


def _remote_paths(channel: Channel) -> PathInfoService:
    from eka_runtime.store.remote import RemotePathInfos

    return RemotePathInfos(channel)


def _object_blobs(url: str, options: Options, average: int | None) -> WritableBlobs:
    from eka_runtime.castore.objectstore import ObjectBlobs

    return ObjectBlobs.from_url(url, options, **({"average": average} if average else {}))


def _object_directories(url: str, options: Options, average: int | None) -> WritableDirectories:
    from eka_runtime.castore.objectstore_directories import ObjectDirectories

    return ObjectDirectories.from_url(url, options)


def _object_paths(url: str, options: Options, average: int | None) -> PathInfoService:
    from eka_runtime.store.objectstore_paths import ObjectPathInfos

    return ObjectPathInfos.from_url(url, options)


BLOBS: Kind[WritableBlobs] = Kind(
    "blob service", "blobservices", _remote_blobs, _object_blobs, LayeredBlobs
)
DIRECTORIES: Kind[WritableDirectories] = Kind(
    "directory service",
    "directoryservices",
    _remote_directories,
    _object_directories,
    LayeredDirectories,
)
PATH_INFOS: Kind[PathInfoService] = Kind(
    "path info service", "pathinfoservices", _remote_paths, _object_paths, LayeredPathInfos
)
KINDS = (BLOBS, DIRECTORIES, PATH_INFOS)
