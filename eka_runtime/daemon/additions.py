"""Operations that add: what comes is hashed on its way in, and valid only when all of it is right.

A content-addressed path is what its contents say, whoever sends it. Any other path is believed of
the store's owner, and refused from everybody else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from io import BytesIO
from struct import Struct

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.blobs import PACKED_MAX
from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.ingest import Ingested, ingest_nar
from eka_runtime.castore.node import FileNode, SymlinkNode
from eka_runtime.daemon.peer import Handler, Peer, spool
from eka_runtime.daemon.protocol import VALID_PATH_INFO, Op
from eka_runtime.daemon.queries import wire_info
from eka_runtime.daemon.wire import NUMBER, Values
from eka_runtime.errors import FormatError, HashMismatch, NarError, StoreAccessError
from eka_runtime.nix.derivation import derivation_name
from eka_runtime.nix.hashes import NixHash, parse_hash
from eka_runtime.nix.path import ContentAddress, StorePath, check_name, path_for_ca
from eka_runtime.nix.tokens import DIRECT_SIZE, NarReader, Read, Write, padding, token, u64
from eka_runtime.store.pathinfo import PathInfo, wrong_ca

_Address = tuple[str, str, str, tuple[StorePath, ...]]
"""Name, method, algorithm, references."""

_NAR_MAX = 1 << 62
_ALGORITHMS = ("md5", "sha1", "sha256", "sha512")
_METHODS = {"text": "text", "fixed": "flat", "fixed:r": "recursive"}
_SIZE = Struct("<Q")
_SIGNATURE = re.compile(r"[!-9;-~]{1,256}:[A-Za-z0-9+/]{1,512}={0,2}")
# What a file that is not executable looks like in a NAR, before and after its contents.
_FILE_BEGIN = b"".join(
    token(word) for word in (b"nix-archive-1", b"(", b"type", b"regular", b"contents")
)
_FILE_END = token(b")")
# AddMultipleToStore has its infos in this version's spelling, whatever was agreed upon.
_INNER_VERSION = 16


def _add_to_store(peer: Peer, request: Values) -> Values:
    method, algorithm = _method(request)
    name = check_name(request["name"])
    references = tuple(sorted(set(map(StorePath.parse, request.get("references", ())))))
    address = name, method, algorithm, references
    if method == "recursive" or "method" not in request:
        info = _add_nar(peer, address, peer.payload.read)
    else:
        info = _add_contents(peer, address, peer.payload.read)
    return {"info": wire_info(info), "path": str(info.path)}


def _add_text_to_store(peer: Peer, request: Values) -> Values:
    text = request["text"].encode("utf-8", "surrogateescape")
    references = tuple(sorted(set(map(StorePath.parse, request["references"]))))
    address = check_name(request["name"]), "text", "sha256", references
    return {"path": str(_add_contents(peer, address, BytesIO(text).read).path)}


def _method(request: Values) -> tuple[str, str]:
    """How the path follows from the contents: method and algorithm."""
    if "method" in request:
        kind, _, algorithm = request["method"].rpartition(":")
        method = _METHODS.get(kind)
    elif request["fixed"]:
        algorithm = request["algo"]
        kind = method = "recursive" if request["recursive"] else "flat"
    else:
        kind = method = "recursive"
        algorithm = "sha256"
    if method is None or algorithm not in _ALGORITHMS:
        raise FormatError(f"contents cannot be addressed by {kind[:64]!r} and {algorithm[:64]!r}")
    return method, algorithm


def _add_contents(peer: Peer, address: _Address, read: Read) -> PathInfo:
    """A file that is not executable."""
    data = _up_to(read, PACKED_MAX)
    if len(data) < PACKED_MAX:
        return _add_small(peer, address, data)
    # Its size, which comes first in a NAR, is known at the end only.
    with spool(peer.store) as file:
        file.write(_FILE_BEGIN + u64(0) + data)
        size = len(data) + _copy(read, file.write)
        file.write(padding(size) + _FILE_END)
        file.seek(len(_FILE_BEGIN))
        file.write(u64(size))
        file.seek(0)
        return _add_nar(peer, address, file.read)


def _add_small(peer: Peer, address: _Address, data: bytes) -> PathInfo:
    name, method, algorithm, references = address
    digest = hashlib.new(algorithm, data, usedforsecurity=False).digest()
    ca = ContentAddress(method, NixHash(algorithm, digest))
    nar = _FILE_BEGIN + token(data) + _FILE_END
    node = FileNode(B3Digest.of(data), len(data), False)
    path = path_for_ca(name, ca, references)
    nar_hash = hashlib.sha256(nar).digest()
    return peer.add_file(PathInfo(path, node, nar_hash, len(nar), references, ca=str(ca)), data)


def _up_to(read: Read, size: int) -> bytes:
    parts: list[bytes] = []
    while size and (data := read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def _copy(read: Read, write: Write) -> int:
    size = 0
    while data := read(DIRECT_SIZE):
        write(data)
        size += len(data)
    return size


def _add_nar(peer: Peer, address: _Address, read: Read) -> PathInfo:
    name, method, algorithm, references = address
    # They may be files that wait to be committed.
    peer.pause()
    with peer.store.batch() as batch:
        hasher = _Hasher(method, algorithm)
        ingested = ingest_nar(batch, _reader(read, hasher.update))
        ca = ContentAddress(method, hasher.result())
        path = path_for_ca(name, ca, references)
        return _committed(peer, batch, PathInfo(path, *ingested, references, ca=str(ca)))


def _committed(peer: Peer, batch: Batch, info: PathInfo) -> PathInfo:
    """Valid, and to be seen by the client before it is told so."""
    recorded = peer.store.commit(batch, info)
    peer.show(recorded)
    return recorded


def _reader(read: Read, watch: Write, subject: str = "the NAR") -> NarReader:
    def watched(size: int) -> bytes:
        data = read(size)
        watch(data)
        return data

    return NarReader(watched, subject=subject)


class _Hasher:
    """The hash of a content address, from the bytes of the NAR."""

    def __init__(self, method: str, algorithm: str) -> None:
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        self._is_file = method != "recursive"
        self._begin = bytearray()
        self._left = -1  # of a file's contents; unknown before they begin

    def update(self, data: bytes) -> None:
        if not self._is_file:
            self._hash.update(data)
            return
        if self._left < 0:
            data = self._begun(data)
        part = data[: max(self._left, 0)]
        self._hash.update(part)
        self._left -= len(part)

    def _begun(self, data: bytes) -> bytes:
        self._begin += data
        size_at = len(_FILE_BEGIN)
        if len(self._begin) < size_at + 8:
            return b""
        if not self._begin.startswith(_FILE_BEGIN):
            raise NarError("only a file that is not executable has a flat content address")
        self._left = _SIZE.unpack_from(self._begin, size_at)[0]
        return bytes(self._begin[size_at + 8 :])

    def result(self) -> NixHash:
        if self._is_file and self._left:
            raise NarError("only a file that is not executable has a flat content address")
        return NixHash(self._algorithm, self._hash.digest())


def _add_to_store_nar(peer: Peer, request: Values) -> Values:
    _add_stated(peer, _stated(request["info"]), peer.payload.read)
    return {}


def _add_multiple_to_store(peer: Peer, request: Values) -> Values:
    source = NarReader(peer.payload.read, subject="the stream of paths")
    for _ in range(NUMBER.read(source, _INNER_VERSION)):
        info = _stated(VALID_PATH_INFO.read(source, _INNER_VERSION))
        source.expect(info.nar_size)
        _add_stated(peer, info, source.contents)
    if not source.at_end():
        raise source.error("something follows the last path")
    return {}


def _stated(wire: Values) -> PathInfo:
    if not 0 < wire["narSize"] < _NAR_MAX:
        raise FormatError(f"{wire['path'][:300]}: a NAR of {wire['narSize']} bytes cannot be")
    info = PathInfo(
        StorePath.parse(wire["path"]),
        SymlinkNode(b"?"),
        parse_hash(wire["narHash"], "sha256").digest,
        wire["narSize"],
        tuple(sorted(set(map(StorePath.parse, wire["references"])))),
        StorePath.parse(wire["deriver"]) if wire["deriver"] else None,
        tuple(sorted(set(wire["sigs"]))),
        wire["ca"] or None,
    )
    _check_signatures(info.signatures)
    if problem := wrong_ca(info):
        raise HashMismatch(f"`{info.path}`: {problem}")
    return info


def _add_stated(peer: Peer, stated: PathInfo, read: Read) -> PathInfo:
    """Raises HashMismatch when the contents are not as stated."""
    if not (stated.ca or peer.trusted):
        raise StoreAccessError(
            f"`{stated.path}` lacks a signature that this store trusts",
            hint="have the owner of the store add it",
        )
    hasher = _address_hasher(stated)
    with peer.store.batch() as batch:
        reader = _reader(_limited(read, stated), hasher.update if hasher else lambda data: None)
        ingested = ingest_nar(batch, reader)
        if not reader.at_end():
            raise reader.error("something follows it")
        _compare(stated, ingested, hasher)
        return _committed(peer, batch, stated._replace(node=ingested.node))


def _limited(read: Read, stated: PathInfo) -> Read:
    left = stated.nar_size

    def limited(size: int) -> bytes:
        nonlocal left
        # Not a byte more is asked for: some clients have no answer to that.
        data = read(min(size, left)) if left else b""
        left -= len(data)
        return data

    return limited


def _address_hasher(stated: PathInfo) -> _Hasher | None:
    """None for a path whose content address, if any, `wrong_ca` has compared with the NAR hash."""
    if not stated.ca:
        return None
    address = ContentAddress.parse(stated.ca)
    if stated.path in stated.references:
        # Its hash is that of a NAR without its own name; only its owner's word stands for it.
        return None
    return _Hasher(address.method, address.hash.algo)


def _compare(stated: PathInfo, ingested: Ingested, hasher: _Hasher | None) -> None:
    if (ingested.nar_hash, ingested.nar_size) != (stated.nar_hash, stated.nar_size):
        ours, theirs = (NixHash("sha256", one.nar_hash).sri() for one in (ingested, stated))
        raise HashMismatch(
            f"hash mismatch importing path `{stated.path}`: {ours} ({ingested.nar_size} bytes)"
            f" came, {theirs} ({stated.nar_size} bytes) was stated"
        )
    if hasher and stated.ca and hasher.result() != ContentAddress.parse(stated.ca).hash:
        raise HashMismatch(f"`{stated.path}` has not the contents of its address {stated.ca}")


def _add_signatures(peer: Peer, request: Values) -> Values:
    peer.require_trust("add signatures")
    path = StorePath.parse(request["path"])
    _check_signatures(request["sigs"])
    peer.store.paths.add_signatures(path, request["sigs"])
    return {"one": 1}


def _check_signatures(signatures: Iterable[str]) -> None:
    """Their form only: nobody has said yet which keys are trusted."""
    for signature in signatures:
        if not _SIGNATURE.fullmatch(signature):
            raise FormatError(f"{signature[:100]!r} is no signature: not `NAME:BASE64`")


def _add_build_log(peer: Peer, request: Values) -> Values:
    """As if the build had been done here."""
    from eka_runtime.build.log import BuildLog

    peer.require_trust("add logs")
    path = StorePath.from_base(request["name"])
    derivation_name(path)
    with spool(peer.store) as file:
        # Whoever vanishes in the middle has added nothing.
        _copy(peer.payload.read, file.write)
        file.seek(0)
        with BuildLog(peer.store, path, lambda line: None) as log:
            _copy(file.read, log.write)
    return {"one": 1}


HANDLERS: dict[Op, Handler] = {
    Op.AddToStore: _add_to_store,
    Op.AddTextToStore: _add_text_to_store,
    Op.AddToStoreNar: _add_to_store_nar,
    Op.AddMultipleToStore: _add_multiple_to_store,
    Op.AddSignatures: _add_signatures,
    Op.AddBuildLog: _add_build_log,
}
