"""narinfo files: what a binary cache says of one store path.

    StorePath: /nix/store/<hash>-<name>
    URL: nar/<…>.nar.xz             relative to the cache, or a URL of its own
    Compression: xz                 "none" must be said: without this line it is bzip2
    FileHash: sha256:<nixbase32>    of the compressed file; optional, as FileSize
    FileSize: 1234
    NarHash: sha256:<nixbase32>
    NarSize: 5678
    References: <hash>-<name> …
    Deriver: <hash>-<name>.drv      optional
    Sig: <key>:<base64>             any number of these lines
    CA: fixed:r:sha256:<nixbase32>  optional
    EkaCastore: <base64url>         optional: the castore node; eka's own, as the next
    EkaCastoreSig: <key>:<base64>   any number: signatures of the node (`signing.py`)

The text is hostile input: its size is bounded, every name in it is parsed, and what occurs twice is
refused. Unknown keys are skipped, as Nix does. Whether it is true is not asked here (`signing.py`
and `eka_runtime/cache/trust.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from eka_runtime.errors import FormatError
from eka_runtime.nix.hashes import NixHash, parse_hash
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.tokens import MAX_CONTENTS

MAX_SIZE = 4 << 20
"""Bytes; the largest in public caches have some 100 KiB of references."""
MAX_SIGNATURES = 100
"""More are ignored: each would have to be checked."""

MIME = "text/x-nix-narinfo"
UNKNOWN_DERIVER = "unknown-deriver"
_KEYS = (
    "StorePath",
    "URL",
    "Compression",
    "FileHash",
    "FileSize",
    "NarHash",
    "NarSize",
    "References",
    "Deriver",
    "CA",
    "EkaCastore",
)


class NarInfo(NamedTuple):
    """`references` and signatures are sorted; `nar_hash` is a SHA-256. Sizes are in bytes."""

    path: StorePath
    url: str
    compression: str
    nar_hash: bytes
    nar_size: int
    references: tuple[StorePath, ...] = ()
    file_hash: NixHash | None = None
    file_size: int | None = None
    deriver: StorePath | None = None
    signatures: tuple[str, ...] = ()
    ca: str | None = None
    castore: str | None = None
    castore_signatures: tuple[str, ...] = ()


def parse_narinfo(data: bytes) -> NarInfo:
    """Raises FormatError that says which line or key is wrong."""
    if len(data) > MAX_SIZE:
        raise FormatError(f"narinfo has {len(data)} bytes, at most {MAX_SIZE} are allowed")
    fields, signatures, castore_signatures = _fields(data)
    for key in ("StorePath", "URL", "NarHash", "NarSize"):
        if not fields.get(key):
            raise FormatError(f"narinfo has no {key}")
    nar_hash = parse_hash(fields["NarHash"])
    if nar_hash.algo != "sha256":
        raise FormatError(f"narinfo: NarHash is a {nar_hash.algo}, not a sha256")
    file_hash, file_size = fields.get("FileHash"), fields.get("FileSize")
    nar_size = _number("NarSize", fields["NarSize"])
    if not nar_size:
        raise FormatError("narinfo: NarSize is 0")
    return NarInfo(
        StorePath.parse(fields["StorePath"]),
        fields["URL"],
        fields.get("Compression") or "bzip2",
        nar_hash.digest,
        nar_size,
        tuple(sorted({StorePath.from_base(base) for base in fields.get("References", "").split()})),
        parse_hash(file_hash) if file_hash else None,
        # Nix writes 0 where it does not know.
        (_number("FileSize", file_size) or None) if file_size else None,
        _deriver(fields.get("Deriver", "")),
        tuple(sorted(signatures)),
        fields.get("CA") or None,
        fields.get("EkaCastore") or None,
        tuple(sorted(castore_signatures)),
    )


def _fields(data: bytes) -> tuple[dict[str, str], set[str], set[str]]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"narinfo is not UTF-8 at byte {error.start}") from error
    fields: dict[str, str] = {}
    signed: dict[str, set[str]] = {"Sig": set(), "EkaCastoreSig": set()}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        key, colon, value = line.partition(":")
        if not colon:
            raise FormatError(f"narinfo line {number} has no colon: {line[:80]!r}")
        value = value.strip()
        if not value.isprintable():
            raise FormatError(f"narinfo line {number} has control characters")
        if key in signed:
            if len(signed[key]) < MAX_SIGNATURES and value:
                signed[key].add(value)
        elif key in _KEYS:
            if key in fields:
                raise FormatError(f"narinfo line {number}: {key} occurs twice")
            fields[key] = value
    return fields, signed["Sig"], signed["EkaCastoreSig"]


def _number(key: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) > MAX_CONTENTS:
        raise FormatError(f"narinfo: {key} is not a size: {text[:80]!r}")
    return int(text)


def _deriver(text: str) -> StorePath | None:
    return None if text in ("", UNKNOWN_DERIVER) else StorePath.from_base(text)


def format_narinfo(info: NarInfo) -> bytes:
    """In the order in which Nix writes the lines, with a LF behind each; eka's own come last."""
    lines = [f"StorePath: {info.path}", f"URL: {info.url}", f"Compression: {info.compression}"]
    if info.file_hash:
        lines.append(f"FileHash: {info.file_hash.nix32()}")
    if info.file_size:
        lines.append(f"FileSize: {info.file_size}")
    lines.append(f"NarHash: {NixHash('sha256', info.nar_hash).nix32()}")
    lines.append(f"NarSize: {info.nar_size}")
    lines.append("References: " + " ".join(path.base for path in sorted(info.references)))
    if info.deriver:
        lines.append(f"Deriver: {info.deriver.base}")
    lines += [f"Sig: {signature}" for signature in info.signatures]
    if info.ca:
        lines.append(f"CA: {info.ca}")
    if info.castore:
        lines.append(f"EkaCastore: {info.castore}")
        lines += [f"EkaCastoreSig: {signature}" for signature in info.castore_signatures]
    return "".join(line + "\n" for line in lines).encode()
