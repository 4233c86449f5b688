"""Path infos in an object store, beside the blobs and directories: an extension of our own.

    BASE/pathinfo/<32 nixbase32 digits>    an encoded snix.store.v1.PathInfo

snix has no path infos on object stores (only in redb files and behind gRPC), so a bucket alone
could not say what is in it. The objects are in nobody else's way: snix reads `blobs/`, `chunks/`
and `dirs/` only. An object is written when its tree is there, whole, and never changed after that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Self

from eka_runtime.castore.objects import Objects, from_url, read_object
from eka_runtime.errors import FormatError, HashMismatch, StoreCorrupt
from eka_runtime.nix.base32 import ALPHABET
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.path import HASH_LENGTH
from eka_runtime.store.messages import decode_path_info, encode_path_info
from eka_runtime.store.pathinfo import PathInfo

PREFIX = "pathinfo"
MAX_SIZE = 4 << 20
"""Bytes of one message; gRPC services have the same limit. Some 15 000 references fit."""

_DIGITS = re.compile(rf"[{ALPHABET}]{{{HASH_LENGTH}}}")


class ObjectPathInfos:
    """A PathInfoService over an object store."""

    def __init__(self, objects: Objects, base: str = "") -> None:
        self._objects = objects
        self._prefix = f"{base}/{PREFIX}" if base else PREFIX

    @classmethod
    def from_url(cls, url: str, options: Mapping[str, str] | None = None) -> Self:
        """Takes `objectstore+…`; see `objects.from_url` for which, and for the errors."""
        return cls(from_url(url, options))

    def by_hash(self, digits: str) -> PathInfo | None:
        """Raises StoreCorrupt for an object that is no path info, or that of another path."""
        data = read_object(self._objects, self._key(digits), MAX_SIZE)
        if data is None:
            return None
        try:
            info = decode_path_info(data)
        except FormatError as error:
            raise StoreCorrupt(f"the path info of {digits} is damaged: {error}") from error
        if info.path.hash != digits:
            raise StoreCorrupt(f"the path info of {digits} is that of `{info.path}`")
        return info

    def put(self, info: PathInfo) -> PathInfo:
        """Raises HashMismatch when the path is there with other contents."""
        self._objects.put(self._key(info.path.hash), encode_path_info(info))
        # What is read back is what counts: another writer may have been first.
        recorded = self.by_hash(info.path.hash)
        if recorded is None:
            raise StoreCorrupt(f"the path info of `{info.path}` is gone as soon as it was written")
        if (recorded.path, recorded.nar_hash) != (info.path, info.nar_hash):
            theirs = NixHash("sha256", recorded.nar_hash).sri()
            raise HashMismatch(
                f"`{info.path}` is there already as `{recorded.path.base}` with NAR hash {theirs}",
                hint="find out which contents are right",
            )
        return recorded

    def all(self) -> Iterator[PathInfo]:
        """In no order."""
        for key in self._objects.list(self._prefix):
            digits = key.rpartition("/")[2]
            if _DIGITS.fullmatch(digits) and (info := self.by_hash(digits)):
                yield info

    def _key(self, digits: str) -> str:
        return f"{self._prefix}/{digits}"
