"""Path infos as `snix.store.v1` messages, in both directions.

    PathInfo   entry (1): Entry named like the path; references (2)*: 20 bytes; narinfo (3)
    NARInfo    nar_size (1), nar_sha256 (2), signatures (3)*: name (1), data (2);
               reference_names (4)*, deriver (5): name (1), digest (2); ca (6): type (1), digest (2)

A message keeps less than the store's record: the time of registration is not in it, and signatures
that are not `NAME:BASE64` of 64 bytes are left out. The deriver's name is without its `.drv`.
What comes in is checked as snix checks it, and sorted as Nix sorts.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import NamedTuple

from eka_runtime.castore.messages import encode_bytes, encode_number, known_fields
from eka_runtime.castore.node import Node, decode_entry, encode_entry
from eka_runtime.castore.render import NarDigest
from eka_runtime.errors import CastoreError, FormatError
from eka_runtime.nix import base32
from eka_runtime.nix.hashes import check_digest
from eka_runtime.nix.path import HASH_SIZE, ContentAddress, StorePath
from eka_runtime.store.pathinfo import PathInfo

PATH_INFO_SERVICE = "snix.store.v1.PathInfoService"

SIGNATURE_SIZE = 64

_SHA256_SIZE = 32
_NAR_SIZE_MAX = 2**63 - 1  # what a store can record
_DRV = ".drv"
_KEY_NAME = re.compile(r"[!-9;-~]{1,255}")  # visible ASCII but the colon

# The number of each is its place.
_CA_TYPES = (
    ("recursive", "sha256"),
    ("recursive", "sha1"),
    ("recursive", "sha512"),
    ("recursive", "md5"),
    ("text", "sha256"),
    ("flat", "sha1"),
    ("flat", "md5"),
    ("flat", "sha256"),
    ("flat", "sha512"),
)


def encode_path_info(info: PathInfo) -> bytes:
    """Raises FormatError for a content address that the message has no number for."""
    references = sorted(info.references)
    return b"".join(
        [
            encode_bytes(1, encode_entry(info.node, info.path.base.encode())),
            *(encode_bytes(2, path.digest) for path in references),
            encode_bytes(3, _encode_nar_info(info, references)),
        ]
    )


def _encode_nar_info(info: PathInfo, references: list[StorePath]) -> bytes:
    signatures = filter(None, map(_encode_signature, sorted(info.signatures)))
    return b"".join(
        [
            encode_number(1, info.nar_size),
            encode_bytes(2, info.nar_hash),
            *(encode_bytes(3, signature) for signature in signatures),
            *(encode_bytes(4, path.base.encode()) for path in references),
            encode_bytes(5, _encode_deriver(info.deriver)) if info.deriver else b"",
            encode_bytes(6, _encode_ca(info.ca)) if info.ca else b"",
        ]
    )


def _encode_signature(text: str) -> bytes:
    name, _, encoded = text.partition(":")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""
    if len(data) != SIGNATURE_SIZE or not _KEY_NAME.fullmatch(name):
        return b""
    return encode_bytes(1, name.encode()) + encode_bytes(2, data)


def _encode_deriver(deriver: StorePath) -> bytes:
    name = deriver.name.removesuffix(_DRV)
    return encode_bytes(1, name.encode()) + encode_bytes(2, deriver.digest)


def _encode_ca(text: str) -> bytes:
    method, stated = ContentAddress.parse(text)
    if (method, stated.algo) not in _CA_TYPES:
        raise FormatError(f"content address {text} has no place in a PathInfo message")
    return encode_number(1, _CA_TYPES.index((method, stated.algo))) + encode_bytes(2, stated.digest)


def decode_path_info(data: bytes) -> PathInfo:
    """Raises FormatError that names the rule it violates."""
    entry = narinfo = None
    references: list[bytes] = []
    for number, value in known_fields(data, "PathInfo", [1, 2, 3]):
        assert isinstance(value, bytes)
        if number == 1:
            entry = value
        elif number == 2:
            references.append(value)
        else:
            narinfo = value
    if entry is None or narinfo is None:
        raise CastoreError(f"invalid PathInfo: no {'entry' if entry is None else 'narinfo'}")
    name, node = decode_entry(entry)
    return _NarInfo.decode(narinfo).path_info(_store_path(name), node, references)


class _NarInfo(NamedTuple):
    size: int
    sha256: bytes
    signatures: Sequence[str]
    reference_names: Sequence[bytes]
    deriver: StorePath | None
    ca: str | None

    @classmethod
    def decode(cls, data: bytes) -> _NarInfo:
        size, sha256 = 0, b""
        signatures, names = [], []
        deriver = ca = None
        for number, value in known_fields(data, "NARInfo", [2, 3, 4, 5, 6], [1]):
            if isinstance(value, int):
                size = value
            elif number == 2:
                sha256 = value
            elif number == 3:
                signatures.append(_decode_signature(value))
            elif number == 4:
                names.append(value)
            elif number == 5:
                deriver = _decode_deriver(value)
            else:
                ca = _decode_ca(value)
        return cls(size, sha256, signatures, names, deriver, ca)

    def path_info(self, path: StorePath, node: Node, digests: list[bytes]) -> PathInfo:
        if not 1 <= self.size <= _NAR_SIZE_MAX:
            raise CastoreError(f"invalid PathInfo: no NAR has {self.size} bytes")
        check_digest("sha256", self.sha256)
        references = [_store_path(name) for name in self.reference_names]
        if [reference.digest for reference in references] != digests:
            raise CastoreError("invalid PathInfo: references and their names do not agree")
        return PathInfo(
            path,
            node,
            self.sha256,
            self.size,
            tuple(sorted(set(references))),
            self.deriver,
            tuple(sorted(set(self.signatures))),
            self.ca,
        )


def _store_path(base: bytes) -> StorePath:
    return StorePath.from_base(base.decode("utf-8", "replace"))


def _decode_signature(data: bytes) -> str:
    name, signature = _two_texts(data, "Signature")
    text = name.decode("utf-8", "replace")
    if not _KEY_NAME.fullmatch(text):
        raise CastoreError(f"invalid PathInfo: name of a signing key: {text[:300]!r}")
    if len(signature) != SIGNATURE_SIZE:
        raise CastoreError(
            f"invalid PathInfo: signature of {len(signature)} bytes, not {SIGNATURE_SIZE}"
        )
    return f"{text}:{base64.b64encode(signature).decode()}"


def _decode_deriver(data: bytes) -> StorePath:
    name, digest = _two_texts(data, "StorePath")
    if len(digest) != HASH_SIZE:
        raise CastoreError(f"invalid PathInfo: deriver with {len(digest)} bytes, not {HASH_SIZE}")
    # Some of snix's own writers leave the suffix where it was.
    base = f"{base32.encode(digest)}-{name.decode('utf-8', 'replace').removesuffix(_DRV)}{_DRV}"
    return StorePath.from_base(base)


def _decode_ca(data: bytes) -> str:
    kind, digest = 0, b""
    for _, value in known_fields(data, "CA", [2], [1]):
        if isinstance(value, int):
            kind = value
        else:
            digest = value
    if kind >= len(_CA_TYPES):
        raise CastoreError(f"invalid PathInfo: unknown kind of content address: {kind}")
    method, algo = _CA_TYPES[kind]
    return str(ContentAddress(method, check_digest(algo, digest)))


def _two_texts(data: bytes, message: str) -> tuple[bytes, bytes]:
    texts = [b"", b""]
    for number, value in known_fields(data, message, [1, 2]):
        if isinstance(value, bytes):
            texts[number - 1] = value
    return texts[0], texts[1]


def encode_path_request(digits: str) -> bytes:
    """A GetPathInfoRequest: by_output_hash (1), here given as 32 nixbase32 digits."""
    return encode_bytes(1, base32.decode(digits))


def decode_path_request(data: bytes) -> str | None:
    """The digits; None when the request asks by something else."""
    raw: bytes | None = None
    for _, value in known_fields(data, "GetPathInfoRequest", [1]):
        raw = value if isinstance(value, bytes) else raw
    if raw is None:
        return None
    if len(raw) != HASH_SIZE:
        raise CastoreError(f"hash of a store path with {len(raw)} bytes, not {HASH_SIZE}")
    return base32.encode(raw)


def encode_nar_digest(digest: NarDigest) -> bytes:
    """A CalculateNARResponse: nar_size (1), nar_sha256 (2)."""
    return encode_number(1, digest.size) + encode_bytes(2, digest.sha256)


def decode_nar_digest(data: bytes) -> NarDigest:
    size, sha256 = 0, b""
    for _, value in known_fields(data, "CalculateNARResponse", [2], [1]):
        if isinstance(value, int):
            size = value
        else:
            sha256 = value
    if len(sha256) != _SHA256_SIZE:
        raise CastoreError(f"a SHA-256 has {_SHA256_SIZE} bytes, not {len(sha256)}")
    return NarDigest(sha256, size)
