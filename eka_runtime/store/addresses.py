"""Which far services are in force: snix's own variables over `[services]` of eka.toml.

    eka.toml       variable                         names
    blobs          BLOB_SERVICE_ADDR                the blob service
    directories    DIRECTORY_SERVICE_ADDR           the directory service
    path-infos     PATH_INFO_SERVICE_ADDR           the path info service
    composition    EXPERIMENTAL_STORE_COMPOSITION   a file that says all three (`composition.py`)
    url                                             one URL for those of the three not named

A stronger layer's composition replaces a weaker layer's addresses and the other way round; within
the environment a composition wins, as it does for snix. Nothing is opened here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from eka_runtime.errors import ConfigError

ADDRESSES = {
    "blobs": "BLOB_SERVICE_ADDR",
    "directories": "DIRECTORY_SERVICE_ADDR",
    "path-infos": "PATH_INFO_SERVICE_ADDR",
}
COMPOSITION = "EXPERIMENTAL_STORE_COMPOSITION"
KEYS = (*ADDRESSES, "composition", "url")

_LOCAL = ("objectstore+file:", "objectstore+memory:", "memory:", "grpc+unix:")


class Addresses(NamedTuple):
    """Three URLs, or the path of a composition file; nothing at all when none is configured."""

    blobs: str = ""
    directories: str = ""
    paths: str = ""
    composition: str = ""

    @property
    def local(self) -> bool:
        """Whether no network is needed; False where that cannot be told."""
        urls = (self.blobs, self.directories, self.paths)
        return not self.composition and all(url.startswith(_LOCAL) for url in urls)

    def __str__(self) -> str:
        urls = dict.fromkeys((self.blobs, self.directories, self.paths))
        return self.composition or ", ".join(urls)


def configured(environ: Mapping[str, str], table: Mapping[str, str]) -> Addresses | None:
    """What is in force, None when nothing is. Raises ConfigError when one of the three lacks."""
    if environ.get(COMPOSITION):
        return Addresses(composition=environ[COMPOSITION])
    stated = {key: environ[name] for key, name in ADDRESSES.items() if environ.get(name)}
    if not stated and table.get("composition"):
        return Addresses(composition=table["composition"])
    fallback = {key: table.get(key) or table.get("url", "") for key in ADDRESSES}
    found = {key: stated.get(key) or fallback[key] for key in ADDRESSES}
    if not any(found.values()):
        return None
    if missing := [key for key, url in found.items() if not url]:
        known = ", ".join(key for key, url in found.items() if url)
        raise ConfigError(
            f"far services are configured for {known}, but not for {', '.join(missing)}",
            hint=f"set {' and '.join(ADDRESSES[key] for key in missing)}, or `url` in the table"
            " [services] of eka.toml",
        )
    return Addresses(found["blobs"], found["directories"], found["path-infos"])
