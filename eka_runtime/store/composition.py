"""From addresses to services: URLs, and snix's composition file.

    blob, directory, path info    objectstore+…  grpc+…  memory:  cache:?near=URL&far=URL

A composition file is TOML with a table for each kind of service, and in it a table for each
service under a name of its own. The service named `root` is the one that is used. A field that
holds `&NAME` means another service of the same kind; a URL there means one without a name.

    [blobservices.root]
    type = "cache"
    near = "&local"
    far = "grpc+https://castore.example.com"
    [blobservices.local]
    type = "objectstore"
    object_store_url = "file:///var/cache/castore"
    object_store_options = {}

What snix has and eka has not (redb files, HTTP binary caches, Bigtable, signing) is refused by
name, with what to do instead. Nothing is opened for a service that is not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qs

from eka_runtime.castore.services import WritableBlobs, WritableDirectories
from eka_runtime.errors import UsageError
from eka_runtime.store.addresses import Addresses
from eka_runtime.store.composition_file import Composition, Entry
from eka_runtime.store.service_kinds import BLOBS, DIRECTORIES, PATH_INFOS, Kind
from eka_runtime.store.services import PathInfoService

if TYPE_CHECKING:
    from eka_runtime.rpc.channel import Channel
    from eka_runtime.store.store import Store

S = TypeVar("S")

SCHEMES = (
    "objectstore+file:///DIR",
    "objectstore+s3://BUCKET/PREFIX",
    "objectstore+gs://BUCKET/PREFIX",
    "objectstore+http(s)://HOST/PREFIX",
    "grpc+unix:/SOCKET",
    "grpc+http://HOST:PORT",
    "grpc+https://HOST:PORT",
)
"""What a person may write for all three services at once."""

_ABSENT = {
    "redb": "redb files can be read by snix only",
    "redb+memory": "eka has `memory:`",
    "bigtable": "eka has no Bigtable client",
    "nix": "binary caches of Nix are no services: write them without `nix+`, for `eka store copy`"
    " or `substituters` in the table [caches] of eka.toml",
    "keyfile-signing": "sign with `eka store sign`",
    "priority": "eka has `cache`, of two services",
    "lru": "eka has `memory`",
}
_MEMORY = "objectstore+memory:///"
_SERVE_IT = "serve it with `snix-store daemon` and give `grpc+http://[::1]:8000`"


class Services(NamedTuple):
    """What `copy_from` and `copy_to` take; `name` is the address, for messages."""

    name: str
    blobs: WritableBlobs
    directories: WritableDirectories
    paths: PathInfoService


def services_of(store: Store) -> Services:
    """Another store of eka's; it stays its owner's to close."""
    from eka_runtime.store.local_services import LocalServices

    return Services(f"the store `{store.root}`", *LocalServices.of(store))


@contextmanager
def open_services(addresses: Addresses) -> Iterator[Services]:
    """Opens the three services, lazily where they allow it, and closes them at the end.

    Raises UsageError for an address nobody can use, ConfigError for a composition file that is
    wrong, MissingExtra for a library that is not installed, ServiceError when a service refuses.
    """
    with ExitStack() as resources:
        file = addresses.composition
        opening = _Opening(resources, Composition.read(file) if file else None)
        yield Services(
            str(addresses),
            opening.root(BLOBS, addresses.blobs),
            opening.root(DIRECTORIES, addresses.directories),
            opening.root(PATH_INFOS, addresses.paths),
        )


def _known() -> str:
    return "use one of: " + "  ".join(SCHEMES)


def unusable(url: str, what: str) -> UsageError:
    """The error for an address that is none, or that of something eka does not have."""
    scheme = url.partition(":")[0]
    if scheme.startswith("nix+"):
        scheme = "nix"
    if scheme in ("redb", "bigtable"):
        return UsageError(f"`{url}` is no {what} for eka: {_ABSENT[scheme]}", hint=_SERVE_IT)
    if scheme in _ABSENT:
        return UsageError(f"`{url}` is no {what} for eka: {_ABSENT[scheme]}", hint=_known())
    if scheme in ("http", "https", "s3", "gs"):
        return UsageError(
            f"`{url}` would be a binary cache of Nix, which is no {what}",
            hint=f"for a snix object store write `objectstore+{url}`; binary caches go into"
            " `substituters` in the table [caches] of eka.toml",
        )
    return UsageError(f"`{url}` is not the address of a {what}", hint=_known())


class _Opening:
    """Makes services on demand, each once; they share the channels to their servers."""

    def __init__(self, resources: ExitStack, composition: Composition | None) -> None:
        self._resources = resources
        self._composition = composition
        self._channels: dict[str, Channel] = {}
        self._made: dict[tuple[str, str], Any] = {}

    def root(self, kind: Kind[S], url: str) -> S:
        if self._composition is None:
            return self._from_url(kind, url)
        return self._named(kind, "root", ())

    def _from_url(self, kind: Kind[S], url: str) -> S:
        scheme, colon, rest = url.partition(":")
        if scheme == "memory" and colon:
            return kind.objects(_MEMORY, {}, None)
        if scheme.startswith("objectstore+"):
            return kind.objects(url, {}, None)
        if scheme.startswith("grpc+"):
            return kind.remote(self._channel(url))
        if scheme == "cache" and rest.startswith("?"):
            return self._cache_url(kind, url, rest[1:])
        raise unusable(url, kind.noun)

    def _cache_url(self, kind: Kind[S], url: str, query: str) -> S:
        found = parse_qs(query)
        if sorted(found) != ["far", "near"] or any(len(urls) > 1 for urls in found.values()):
            raise UsageError(
                f"`{url}` does not say what is near and what is far",
                hint="write `cache:?near=URL&far=URL`, with % escapes in both",
            )
        [near], [far] = found["near"], found["far"]
        return kind.layered(self._from_url(kind, near), self._from_url(kind, far))

    def _channel(self, url: str) -> Channel:
        from eka_runtime.rpc.channel import Channel

        if url not in self._channels:
            self._channels[url] = channel = Channel(url)
            self._resources.callback(channel.close)
        return self._channels[url]

    def _named(self, kind: Kind[S], name: str, chain: tuple[str, ...]) -> S:
        assert self._composition is not None
        if name in chain:
            circle = " -> ".join([*chain, name])
            raise self._composition.error(f"{kind.table} refer to each other: {circle}")
        key = kind.table, name
        if key not in self._made:
            entry = self._composition.entry(kind.table, name)
            self._made[key] = self._from_entry(kind, entry, (*chain, name))
        made: S = self._made[key]
        return made

    def _from_entry(self, kind: Kind[S], entry: Entry, chain: tuple[str, ...]) -> S:
        if entry.type == "objectstore":
            url = "objectstore+" + entry.text("object_store_url")
            average = entry.number("avg_chunk_size") if kind is BLOBS else None
            return kind.objects(url, entry.options("object_store_options"), average)
        if entry.type == "memory":
            return kind.objects(_MEMORY, {}, None)
        if entry.type == "grpc":
            return kind.remote(self._channel(entry.text("url")))
        if entry.type == "cache":
            near, far = (self._refer(kind, entry.text(field), chain) for field in ("near", "far"))
            return kind.layered(near, far)
        raise entry.unknown_type(_ABSENT)

    def _refer(self, kind: Kind[S], text: str, chain: tuple[str, ...]) -> S:
        if text.startswith("&"):
            return self._named(kind, text[1:], chain)
        return self._from_url(kind, text)
