"""One binary cache: its `nix-cache-info`, narinfos, and NARs, whatever transport brings them.

What a cache says is checked here as far as it can be without reading a NAR: that it is about the
path that was asked for, and believable (`trust.py`). Which cache is asked, and what is done with
the answers: `substituter.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from eka_runtime.cache.decompress import decompressing
from eka_runtime.cache.files import Body, Files
from eka_runtime.cache.trust import Trust
from eka_runtime.errors import FormatError, ServiceError
from eka_runtime.nix.narinfo import MAX_SIZE, NarInfo, parse_narinfo
from eka_runtime.nix.path import HASH_LENGTH, STORE_DIR
from eka_runtime.nix.tokens import Read

CACHE_INFO = "nix-cache-info"
DEFAULT_PRIORITY = 50
_INFO_MAX = 1 << 16


class CacheInfo(NamedTuple):
    """A lower `priority` is asked earlier."""

    priority: int = DEFAULT_PRIORITY
    mass_query: bool = False


def parse_cache_info(data: bytes, place: str) -> CacheInfo:
    """Raises ServiceError for a cache of another store directory."""
    fields: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    store = fields.get("StoreDir", STORE_DIR)
    if store != STORE_DIR:
        raise ServiceError(f"{place} is a cache for the store directory {store[:200]!r}")
    priority = fields.get("Priority", "")
    number = int(priority) if priority.isdecimal() and len(priority) < 10 else DEFAULT_PRIORITY
    return CacheInfo(number, fields.get("WantMassQuery") == "1")


def format_cache_info(info: CacheInfo) -> bytes:
    return (
        f"StoreDir: {STORE_DIR}\nWantMassQuery: {int(info.mass_query)}\nPriority: {info.priority}\n"
    ).encode()


class BinaryCache:
    """`url` is its name in the memory of answers; `priority` overrides what it says itself.

    Methods raise ServiceError; they may be used from several threads.
    """

    def __init__(
        self, url: str, files: Files, trust: Trust, *, priority: int | None = None
    ) -> None:
        self.url = url
        self.files = files
        self.trust = trust
        self._priority = priority
        self._info: CacheInfo | None = None
        self._guard = threading.Lock()

    @property
    def name(self) -> str:
        return self.files.name

    def info(self) -> CacheInfo:
        """Asked for once. Raises ServiceError also for what is no binary cache."""
        with self._guard:
            if self._info is None:
                data = self.files.read(CACHE_INFO, _INFO_MAX)
                if data is None:
                    raise ServiceError(
                        f"{self.name} is not a binary cache: it has no `{CACHE_INFO}`",
                        hint="check the URL",
                    )
                found = parse_cache_info(data, self.name)
                if self._priority is not None:
                    found = found._replace(priority=self._priority)
                self._info = found
            return self._info

    def narinfo_text(self, digits: str) -> bytes | None:
        return self.files.read(f"{digits}.narinfo", MAX_SIZE)

    def understand(self, digits: str, data: bytes) -> NarInfo:
        """Raises ServiceError for a text that is wrong, UntrustedError for one not believed."""
        try:
            info = parse_narinfo(data)
        except FormatError as error:
            raise ServiceError(f"{self.name}: the narinfo of {digits}: {error}") from error
        if info.path.hash != digits:
            raise ServiceError(f"{self.name}: the narinfo of {digits} is that of `{info.path}`")
        self.trust.check(info, self.name)
        return info

    def open_nar(self, info: NarInfo, count: Callable[[int], object] | None = None) -> Nar | None:
        """None when the cache has the narinfo only. `count` gets the sizes of what arrives."""
        body = self.files.open(info.url)
        if body is None:
            return None
        try:
            return Nar(body, info, self.name, count)
        except BaseException:
            body.close()
            raise


class Nar:
    """`read` gives the unpacked bytes: 1..n of them, b"" at the end. To be closed."""

    def __init__(
        self, body: Body, info: NarInfo, place: str, count: Callable[[int], object] | None
    ) -> None:
        self._body = body
        self._info = info
        self._place = place
        self._count = count
        self._arrived = 0
        self.read: Read = decompressing(self._packed, info.compression, place)

    def _packed(self, size: int) -> bytes:
        data = self._body.read(size)
        self._arrived += len(data)
        if self._info.file_size is not None and self._arrived > self._info.file_size:
            raise ServiceError(
                f"{self._place} sends more than the {self._info.file_size} bytes of"
                f" `{self._info.url}` for `{self._info.path}`"
            )
        if self._count:
            self._count(len(data))
        return data

    def close(self) -> None:
        self._body.close()

    def abort(self) -> None:
        """From another thread: whoever reads gets an error soon."""
        self._body.abort()


def is_hash_part(text: str) -> bool:
    return len(text) == HASH_LENGTH
