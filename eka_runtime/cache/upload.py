"""Sends paths of a store to a binary cache: NARs first, then narinfos, references first.

So a cache never promises what it has not, whatever ends an upload, and one that is begun again
sends only what is not there. Several NARs are rendered and compressed at once. Each goes through a
file on disk, because its name in the cache is its hash. What is read is compared with the NAR hash
that the store knows: a damaged path is refused, and no narinfo is written for it.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from eka_runtime.cache.client import CACHE_INFO, CacheInfo, format_cache_info, parse_cache_info
from eka_runtime.cache.crew import Crew
from eka_runtime.cache.decompress import EXTENSIONS, check_compression, compressor
from eka_runtime.cache.files import Files
from eka_runtime.cache.listing import listing
from eka_runtime.cache.upload_castore import send_tree, with_node
from eka_runtime.errors import UsageError
from eka_runtime.nix import base32
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.narinfo import MIME, NarInfo, format_narinfo
from eka_runtime.nix.path import StorePath
from eka_runtime.store.copying import levels
from eka_runtime.store.pathinfo import PathInfo

if TYPE_CHECKING:
    from eka_runtime.nix.signing import SecretKey
    from eka_runtime.store.store import Store

_QUESTIONS = 64
_JOBS_MAX = 8
# Prepared NARs wait for the narinfos of their references.
_AHEAD = 64
_INFO_MAX = 1 << 16
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


class How(NamedTuple):
    """How NARs are written, as the parameters of a cache's URL say it."""

    compression: str = "zstd"
    level: int | None = None
    keys: tuple[SecretKey, ...] = ()
    listings: bool = False
    castore: bool = False

    @classmethod
    def of(cls, parameters: Mapping[str, str], keys: tuple[SecretKey, ...] = ()) -> How:
        """Raises UsageError for a value that makes no sense, and for a key that cannot be read."""
        level = parameters.get("compression-level", "")
        if level and not level.lstrip("-").isdecimal():
            raise UsageError(f"`compression-level` must be a number: {level}")
        if file := parameters.get("secret-key"):
            from eka_runtime.cache.keys import read_secret_key

            keys = (*keys, read_secret_key(file))
        made = cls(
            parameters.get("compression") or cls._field_defaults["compression"],
            int(level) if level and level != "-1" else None,
            keys,
            _flag(parameters, "write-nar-listing"),
            _flag(parameters, "castore"),
        )
        check_compression(made.compression, made.level)
        return made


def _flag(parameters: Mapping[str, str], name: str) -> bool:
    stated = parameters.get(name, "0")
    if stated not in _FLAGS:
        raise UsageError(f"`{name}` must be 1 or 0: {stated}")
    return _FLAGS[stated]


def prepare_cache(files: Files, priority: int | None = None) -> None:
    """Makes an empty place a cache. Raises ServiceError for one of another store directory."""
    data = files.read(CACHE_INFO, _INFO_MAX)
    if data is not None:
        parse_cache_info(data, files.name)
        return
    info = CacheInfo(mass_query=True)
    if priority is not None:
        info = info._replace(priority=priority)
    _write(files, CACHE_INFO, format_cache_info(info), "text/x-nix-cache-info")


def missing_in(files: Files, store: Store, paths: Iterable[StorePath]) -> list[PathInfo]:
    """What of the closure of these paths the cache has not, references first."""
    infos = [store.info(path) for path in store.closure(paths)]
    absent: dict[StorePath, PathInfo] = {}
    with Crew[PathInfo, bool](_QUESTIONS) as crew:
        for info in infos:
            crew.submit(info, partial(files.has, narinfo_name(info.path)))
        while crew.busy and (report := crew.next()):
            if report.error is not None:
                raise report.error
            if not report.result:
                absent[report.key.path] = report.key
    return [absent[path] for level in levels(str(store.root), absent) for path in level]


def upload(
    store: Store,
    files: Files,
    infos: Iterable[PathInfo],
    how: How,
    *,
    each: Callable[[PathInfo], object] = lambda info: None,
    progress: Callable[[int, int], object] = lambda paths, size: None,
) -> None:
    """Sends what `missing_in` found; `each` is told of every path that the cache then has.

    Raises StoreCorrupt when what is read here is damaged, and ServiceError.
    """
    order = list(infos)
    done = size = begun = 0
    ready: dict[StorePath, NarInfo] = {}
    jobs = min(os.cpu_count() or 1, _JOBS_MAX)
    readers = _Readers()
    with Crew[PathInfo, NarInfo](jobs, "upload") as crew, closing(readers):
        while done < len(order):
            while begun < len(order) and begun - done < _AHEAD:
                job = partial(_send_nar, store, files, order[begun], how, readers)
                crew.submit(order[begun], job)
                begun += 1
            report = crew.next()
            # All that has come meanwhile becomes durable together.
            while report is not None:
                if report.result is None:
                    raise report.error or AssertionError
                ready[report.key.path] = report.result
                size += report.result.nar_size
                report = crew.next(0)
            files.settle()
            while done < len(order) and (made := ready.pop(order[done].path, None)):
                _write(files, narinfo_name(made.path), format_narinfo(made), MIME)
                each(order[done])
                done += 1
            progress(done, size)


def narinfo_name(path: StorePath) -> str:
    return f"{path.hash}.narinfo"


class _Readers:
    """Who reads the store. Nobody does any more, nor ever will, when `close` returns.

    An upload that failed, or was interrupted, must not leave threads behind that use a store which
    is closed soon: SQLite does not survive that.
    """

    def __init__(self) -> None:
        self.closed = False
        self._count = 0
        self._changed = threading.Condition()

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._changed:
            self.check()
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def check(self) -> None:
        if self.closed:
            raise _Over

    def close(self) -> None:
        self.closed = True
        with self._changed:
            self._changed.wait_for(lambda: not self._count)


class _Over(Exception):
    """Nobody waits for this NAR any more."""


def _send_nar(store: Store, files: Files, info: PathInfo, how: How, readers: _Readers) -> NarInfo:
    with files.scratch() as scratch:
        with readers.reading():
            digest, size = _pack(store, info, how, scratch, readers)
        name = f"nar/{base32.encode(digest)}.nar{EXTENSIONS[how.compression]}"
        if not files.has(name):
            files.write(name, scratch, size, "application/x-nix-nar")
    if how.listings:
        with readers.reading():
            text = listing(info.node, store.directories)
        _write(files, f"{info.path.hash}.ls", text, "application/json")
    made = NarInfo(
        info.path,
        name,
        how.compression,
        info.nar_hash,
        info.nar_size,
        info.references,
        NixHash("sha256", digest),
        size,
        info.deriver,
        info.signatures,
        info.ca,
    )
    if how.castore:
        send_tree(store, files, info.node, readers.reading)
        made = with_node(made, info.node, how.keys)
    return signed(made, how.keys)


def _pack(
    store: Store, info: PathInfo, how: How, scratch: BinaryIO, readers: _Readers
) -> tuple[bytes, int]:
    """SHA-256 and size of the compressed NAR, which is in the file then."""
    from eka_runtime.store.transfer import write_checked_nar

    packer = compressor(how.compression, how.level)
    hasher, size = hashlib.sha256(), 0

    def out(data: bytes) -> None:
        nonlocal size
        readers.check()
        if data:
            hasher.update(data)
            size += scratch.write(data)

    write_checked_nar(store, info, lambda data: out(packer.compress(data)))
    out(packer.flush())
    scratch.flush()
    return hasher.digest(), size


def signed(info: NarInfo, keys: Iterable[SecretKey]) -> NarInfo:
    """With signatures by these keys beside those that it has."""
    keys = tuple(keys)
    if not keys:
        return info
    from eka_runtime.nix.signing import fingerprint

    data = fingerprint(info.path, info.nar_hash, info.nar_size, info.references)
    made = {key.sign(data) for key in keys}
    return info._replace(signatures=tuple(sorted({*info.signatures, *made})))


def _write(files: Files, name: str, data: bytes, mime: str) -> None:
    files.write(name, io.BytesIO(data), len(data), mime)
