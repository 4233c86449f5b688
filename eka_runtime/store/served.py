"""A store, or any three services, given out by gRPC to whoever speaks snix's protocol.

Path infos have snix's statuses: NOT_FOUND, INVALID_ARGUMENT for what is none, UNKNOWN for all that
goes wrong behind them, INTERNAL in a listing. CalculateNAR takes a node without a name, as snix's
server does and not as its comments say. A path that is put must have its contents here already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from eka_runtime.castore.messages import BLOB_SERVICE, DIRECTORY_SERVICE
from eka_runtime.castore.node import Node, decode_entry
from eka_runtime.castore.render import NarDigest, nar_digest
from eka_runtime.castore.served import asked, blob_methods, directory_methods
from eka_runtime.castore.services import WritableBlobs, WritableDirectories
from eka_runtime.errors import CastoreError, StoreCorrupt
from eka_runtime.rpc.server import Methods, Refused, Status, answering, collecting, serving, unary
from eka_runtime.store.messages import (
    PATH_INFO_SERVICE,
    decode_path_info,
    decode_path_request,
    encode_nar_digest,
    encode_path_info,
)
from eka_runtime.store.services import PathInfoService


class Served(Protocol):
    """Three services for the same contents."""

    @property
    def blobs(self) -> WritableBlobs: ...
    @property
    def directories(self) -> WritableDirectories: ...
    @property
    def paths(self) -> PathInfoService: ...


@runtime_checkable
class CalculatesNars(Protocol):
    """A PathInfoService that is nearer to the contents than whoever asks it."""

    def calculate_nar(self, node: Node) -> NarDigest: ...


def serve(services: Served, listen: str, *, read_only: bool = False) -> AbstractContextManager[str]:
    """Serves them while the context lasts; gives the URL. See `rpc/server.py:serving`."""
    return serving(listen, methods(services, read_only=read_only))


def methods(services: Served, *, read_only: bool = False) -> Mapping[str, Methods]:
    """The methods by name of service; one who may only read gets PERMISSION_DENIED from Put."""
    found = {
        BLOB_SERVICE: blob_methods(services.blobs),
        DIRECTORY_SERVICE: directory_methods(services.directories),
        PATH_INFO_SERVICE: path_info_methods(services),
    }
    return {name: _reading(of) for name, of in found.items()} if read_only else found


def _reading(found: Methods) -> Methods:
    def put(requests: Iterator[bytes]) -> bytes:
        raise Refused(Status.PERMISSION_DENIED, "this server is read-only")

    return {**found, "Put": collecting(put)}


def path_info_methods(services: Served) -> Methods:
    """Those of `snix.store.v1.PathInfoService`."""
    paths = services.paths

    def get(request: bytes) -> bytes:
        digits = asked(lambda: decode_path_request(request))
        if digits is None:
            raise Refused(Status.UNIMPLEMENTED, "paths are found by their output hash only")
        info = paths.by_hash(digits)
        if info is None:
            raise Refused(Status.NOT_FOUND, f"no path with the hash {digits}")
        return encode_path_info(info)

    def put(request: bytes) -> bytes:
        return encode_path_info(paths.put(asked(lambda: decode_path_info(request))))

    def listing(request: bytes) -> Iterator[bytes]:
        return map(encode_path_info, paths.all())

    def calculate(request: bytes) -> bytes:
        node = asked(lambda: _anonymous(request))
        if isinstance(paths, CalculatesNars):
            return encode_nar_digest(paths.calculate_nar(node))
        return encode_nar_digest(nar_digest(node, services.blobs, services.directories))

    return {
        "Get": unary(_unknown(get)),
        "Put": unary(_unknown(put)),
        "List": answering(listing, Status.INTERNAL),
        "CalculateNAR": unary(_unknown(calculate)),
    }


def _anonymous(request: bytes) -> Node:
    name, node = decode_entry(request)
    if name:
        raise CastoreError(f"the root of a NAR has no name, and not {name[:300]!r}")
    return node


def _unknown(run: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Damage included, which snix does not tell apart here."""

    def wrapped(request: bytes) -> bytes:
        try:
            return run(request)
        except StoreCorrupt as error:
            raise Refused(Status.UNKNOWN, str(error)) from error

    return wrapped
