"""What a binary cache answers: a store as narinfos, NARs, listings, and a place for uploads.

    GET, HEAD /nix-cache-info                    what this is
              /<hash>.narinfo                    path info, signed with the server's keys
              /<hash>.ls                         listing of the NAR
              /nar/<hash>-<NAR hash>.nar[.zst…]  the NAR of a path, compressed as it goes out
              /nar/snix-castore/<node>?narsize=N the NAR of a castore node, also in ranges
              /castore/blob/<BLAKE3 in hex>      one blob
              /castore/directory/<BLAKE3 in hex> one directory, encoded
              /nar/<file hash>.nar[.xz…]         HEAD: whether it was uploaded just now
              /log/<name>.drv                    a build log
    PUT       /nar/<file hash>.nar[.xz…], then /<hash>.narinfo, with a token

NARs are hashed on their way out, and one that is not what the store knows never ends well: the
connection is cut. Without HTTP here (`server.py`): answers are statuses, headers and bytes, so any
server can carry them.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from eka_runtime.cache import castore_out
from eka_runtime.cache.client import CACHE_INFO, CacheInfo, format_cache_info
from eka_runtime.cache.decompress import EXTENSIONS, compressor
from eka_runtime.cache.listing import listing
from eka_runtime.cache.named_node import PATTERN, node_text, parse_node
from eka_runtime.cache.receiving import Uploads
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.hashing import StreamHash
from eka_runtime.castore.nar_source import nar_pieces, nar_size
from eka_runtime.castore.node import Node, encode_entry
from eka_runtime.errors import EkaError, StoreCorrupt
from eka_runtime.nix import base32
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.narinfo import MIME, NarInfo, format_narinfo
from eka_runtime.nix.path import HASH_LENGTH
from eka_runtime.nix.tokens import Read
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.transfer import nar_stream

if TYPE_CHECKING:
    from eka_runtime.nix.signing import SecretKey
    from eka_runtime.store.store import Store

_HASH = f"[{base32.ALPHABET}]{{{HASH_LENGTH}}}"
_SHA256 = f"[{base32.ALPHABET}]{{52}}"
_ENDS = "|".join(re.escape(end) for end in EXTENSIONS.values() if end)
_NARINFO = re.compile(rf"({_HASH})\.narinfo")
_LISTING = re.compile(rf"({_HASH})\.ls")
_NAR = re.compile(rf"nar/({_HASH})-({_SHA256})\.nar({_ENDS})?")
_UPLOADED = re.compile(rf"nar/({_SHA256})\.nar({_ENDS})?")
_INFUSED = re.compile(f"nar/snix-castore/({PATTERN})")
_CASTORE = re.compile(castore_out.PATTERN)
_LOG = re.compile(r"log/([A-Za-z0-9+._?=-]{1,300})")
_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{0,19})")

_FOREVER = "max-age=31536000, immutable"
_REFRESH = 30.0
_LEVEL = {"zstd": 3, "xz": 1, "gzip": 6, "bzip2": 9, "br": 4}

ABSENT = "not here"
"""What a 404 says."""

FindLog = Callable[[str], bytes | None]


class Asked(NamedTuple):
    """A request: `name` without the first slash and the query, header names in lower case."""

    method: str
    name: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    read: Read
    """The body, with nothing behind it."""


class Answer(NamedTuple):
    """`size` is None where only the end will tell; a HEAD request gets no body."""

    status: int
    mime: str = "text/plain"
    body: Iterable[bytes] = ()
    size: int | None = 0
    headers: tuple[tuple[str, str], ...] = ()


class Policy(NamedTuple):
    """How a store is served. Without a token nothing is taken in."""

    compression: str = "zstd"
    priority: int = 40
    keys: tuple[SecretKey, ...] = ()
    token: str | None = None


def text(status: int, words: str, *headers: tuple[str, str]) -> Answer:
    data = (words + "\n").encode()
    return Answer(status, "text/plain; charset=utf-8", (data,), len(data), headers)


class Cache:
    """Answers from any number of threads."""

    def __init__(
        self, store: Store, policy: Policy, *, find_log: FindLog = lambda name: None
    ) -> None:
        self.store = store
        self._policy = policy
        self._find_log = find_log
        self._uploads = Uploads(store)
        self._signed = lru_cache(1 << 14)(self._signatures)
        self._presence = _Presence(store)

    def version(self) -> int:
        """Another number when the store has changed, for the calling thread."""
        row = self.store.database.connection.execute("pragma data_version").fetchone()
        return int(row[0])

    def answer(self, asked: Asked) -> Answer:
        """What goes out is complete when the body was read to its end, and closed."""
        self._presence.enter()
        try:
            found = self._answer(asked)
        except BaseException:
            self._presence.leave()
            raise
        return found._replace(body=_Leaving(found.body, self._presence))

    def _answer(self, asked: Asked) -> Answer:
        if asked.method in ("GET", "HEAD"):
            return self._get(asked)
        if asked.method == "PUT":
            return self._put(asked)
        return text(405, "only GET, HEAD and PUT", ("Allow", "GET, HEAD, PUT"))

    def _get(self, asked: Asked) -> Answer:
        name = asked.name
        if match := _NARINFO.fullmatch(name):
            return self._narinfo(match[1])
        if match := _NAR.fullmatch(name):
            return self._nar(match, asked)
        if match := _INFUSED.fullmatch(name):
            return self._infused(match[1], asked)
        if match := _CASTORE.fullmatch(name):
            return self._castore(match[1], B3Digest(bytes.fromhex(match[2])), asked)
        if match := _LISTING.fullmatch(name):
            return self._listing(match[1])
        if match := _UPLOADED.fullmatch(name):
            known = asked.method == "HEAD" and self._uploads.has(name)
            return Answer(200, "application/x-nix-nar") if known else _absent()
        if match := _LOG.fullmatch(name):
            log = self._find_log(match[1])
            return _absent() if log is None else _whole("text/plain; charset=utf-8", log)
        if name == CACHE_INFO:
            info = CacheInfo(self._policy.priority, True)
            return _whole("text/x-nix-cache-info", format_cache_info(info))
        if name == "":
            return text(200, "a binary cache for Nix, served by eka")
        return _absent()

    def _narinfo(self, digits: str) -> Answer:
        info = self.store.paths.by_hash(digits)
        return _absent() if info is None else _whole(MIME, format_narinfo(self.narinfo(info)))

    def narinfo(self, info: PathInfo) -> NarInfo:
        """With a URL that this cache answers."""
        compression = self._policy.compression
        packed: NixHash | None = None
        size: int | None = None
        if compression == "none":
            packed, size = NixHash("sha256", info.nar_hash), info.nar_size
            url = f"nar/snix-castore/{node_text(info.node)}?narsize={info.nar_size}"
        else:
            digest = base32.encode(info.nar_hash)
            url = f"nar/{info.path.hash}-{digest}.nar{EXTENSIONS[compression]}"
        signatures, castore_signatures = self._signed(info)
        return NarInfo(
            info.path,
            url,
            compression,
            info.nar_hash,
            info.nar_size,
            info.references,
            packed,
            size,
            info.deriver,
            signatures,
            info.ca,
            node_text(info.node),
            castore_signatures,
        )

    def _signatures(self, info: PathInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of the path, and of its castore node."""
        if not self._policy.keys:
            return info.signatures, ()
        from eka_runtime.nix.signing import castore_fingerprint, fingerprint

        keys = self._policy.keys
        data = fingerprint(info.path, info.nar_hash, info.nar_size, info.references)
        made = {key.sign(data) for key in keys}
        data = castore_fingerprint(info.path, info.nar_hash, info.nar_size, node_text(info.node))
        of_node = {key.sign(data) for key in keys}
        return tuple(sorted({*info.signatures, *made})), tuple(sorted(of_node))

    def _listing(self, digits: str) -> Answer:
        info = self.store.paths.by_hash(digits)
        if info is None:
            return _absent()
        return _whole("application/json", listing(info.node, self.store.directories))

    def _nar(self, match: re.Match[str], asked: Asked) -> Answer:
        digits, digest, end = match.groups()
        info = self.store.paths.by_hash(digits)
        if info is None or base32.encode(info.nar_hash) != digest:
            return _absent()
        if not end:
            return self._plain(info.node, info.nar_size, info, asked)
        compression = next(name for name, known in EXTENSIONS.items() if known == end)
        body = () if asked.method == "HEAD" else self._packed(info, compression)
        return Answer(200, _NAR_MIME, body, None, (("Cache-Control", _FOREVER),))

    def _packed(self, info: PathInfo, compression: str) -> Iterator[bytes]:
        packer = compressor(compression, _LEVEL[compression])
        for piece in self._checked(info):
            if data := packer.compress(piece):
                yield data
        yield packer.flush()

    def _checked(self, info: PathInfo) -> Iterator[bytes]:
        """The NAR; its last piece only when all was right."""
        with StreamHash() as hashing:
            last = b""
            for piece in nar_stream(self.store, info):
                hashing.update(piece)
                if last:
                    yield last
                last = piece
            if (hashing.digest(), hashing.size) != (info.nar_hash, info.nar_size):
                raise StoreCorrupt(
                    f"`{info.path}` has changed since it was added: its NAR has another hash",
                    hint="run `eka store verify --deep --repair`",
                )
            yield last

    def _infused(self, entry: str, asked: Asked) -> Answer:
        stated = asked.query.get("narsize", "")
        if not stated.isdecimal() or len(stated) > 19:
            return text(400, "narsize is missing")
        node = parse_node(entry)
        return _absent() if node is None else self._plain(node, int(stated), None, asked)

    def _castore(self, kind: str, digest: B3Digest, asked: Asked) -> Answer:
        found = castore_out.contents(self.store, kind, digest)
        if found is None:
            return _absent()
        headers = ("Cache-Control", _FOREVER), ("ETag", f'"{digest.hex()}"')
        body = () if asked.method == "HEAD" else found.pieces
        return Answer(200, "application/octet-stream", body, found.size, headers)

    def _plain(self, node: Node, size: int, info: PathInfo | None, asked: Asked) -> Answer:
        """A NAR as it is; a range of it if that is asked for."""
        try:
            actual = nar_size(node, self.store.directories)
        except StoreCorrupt:
            return _absent()
        if actual != size:
            return text(400, f"the NAR has {actual} bytes")
        tag = f'"{base32.encode(info.nar_hash) if info else entry_tag(node)}"'
        headers = [("Accept-Ranges", "bytes"), ("Cache-Control", _FOREVER), ("ETag", tag)]
        span = _range(asked, size, tag)
        if span is None:
            # Of a path, its hash is checked as it goes; of a node, who reads it does.
            pieces = self._checked(info) if info else self._pieces(node, 0, size)
            body = () if asked.method == "HEAD" else pieces
            return Answer(200, _NAR_MIME, body, size, tuple(headers))
        first, end = span
        if first >= size or end <= first:
            return text(416, "no such range", ("Content-Range", f"bytes */{size}"))
        headers.append(("Content-Range", f"bytes {first}-{end - 1}/{size}"))
        body = () if asked.method == "HEAD" else self._pieces(node, first, end)
        return Answer(206, _NAR_MIME, body, end - first, tuple(headers))

    def _pieces(self, node: Node, start: int, end: int) -> Iterator[bytes]:
        left = end - start
        for piece in nar_pieces(node, self.store.blobs, self.store.directories, start):
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return

    def _put(self, asked: Asked) -> Answer:
        if self._policy.token is None:
            return text(403, "this cache takes no uploads")
        if not _authorized(asked.headers.get("authorization", ""), self._policy.token):
            challenge = ("WWW-Authenticate", 'Basic realm="eka"')
            return text(401, "the token for uploads is missing or wrong", challenge)
        try:
            return self._take_in(asked)
        except EkaError as error:
            return text(400, str(error))

    def _take_in(self, asked: Asked) -> Answer:
        if match := _UPLOADED.fullmatch(asked.name):
            self._uploads.put_nar(asked.name, match[1], match[2] or "", asked.read)
            return text(201, "stored")
        if match := _NARINFO.fullmatch(asked.name):
            self._uploads.put_narinfo(match[1], asked.read)
            return text(201, "valid")
        if asked.name == CACHE_INFO or _LISTING.fullmatch(asked.name) or _LOG.fullmatch(asked.name):
            # What the store knows by itself.
            return text(200, "not needed")
        return _absent()


_NAR_MIME = "application/x-nix-nar"


def is_narinfo(name: str) -> bool:
    return _NARINFO.fullmatch(name) is not None


def entry_tag(node: Node) -> str:
    from blake3 import blake3

    return blake3(encode_entry(node)).hexdigest()


def _whole(mime: str, data: bytes) -> Answer:
    return Answer(200, mime, (data,), len(data))


def _absent() -> Answer:
    return text(404, ABSENT)


def _range(asked: Asked, size: int, tag: str) -> tuple[int, int] | None:
    """First byte and end of the one range that is asked for; None for all of it."""
    condition = asked.headers.get("if-range")
    match = _RANGE.fullmatch(asked.headers.get("range", "").strip())
    if match is None or condition not in (None, tag):
        return None
    end = int(match[2]) + 1 if match[2] else size
    return int(match[1]), min(end, size)


def _authorized(header: str, token: str) -> bool:
    """By `Bearer TOKEN`, or as a password, which is what netrc files have for Nix."""
    kind, _, value = header.partition(" ")
    if kind.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    elif kind.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode(), token.encode())


class _Presence:
    """Whoever has the store open keeps what is collected from being removed for good.

    A server has it open for months, so now and then, while nobody is served, it is as if it came
    anew.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = threading.Lock()
        self._inside = 0
        self._since = time.monotonic()

    def enter(self) -> None:
        with self._guard:
            self._inside += 1

    def leave(self) -> None:
        with self._guard:
            self._inside -= 1
            if not self._inside and time.monotonic() - self._since > _REFRESH:
                with self._store.uninvolved():
                    self._since = time.monotonic()


class _Leaving:
    """A body that says when it is not needed any more."""

    def __init__(self, body: Iterable[bytes], presence: _Presence) -> None:
        self._body = iter(body)
        self._presence: _Presence | None = presence

    def __iter__(self) -> Iterator[bytes]:
        return self._body

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()
        presence, self._presence = self._presence, None
        if presence is not None:
            presence.leave()
