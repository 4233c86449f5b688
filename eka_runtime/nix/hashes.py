"""Hashes as Nix writes them: SRI, `algo:digest`, or a bare digest whose algorithm is known.

Digests are hex, nixbase32 or base64, told apart by their length. Like Nix, the reader of SRI does
not insist on padding, ignores what follows the first "=" and does not look at the bits beyond the
digest; unlike Nix, it takes no line breaks inside base64.
"""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

from eka_runtime.errors import FormatError
from eka_runtime.nix import base32

DIGEST_SIZES = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}

_HEX = re.compile(r"[0-9a-fA-F]*")
_BASE64 = re.compile(r"[0-9a-zA-Z+/]*")
_QUOTED_MAX = 160


class NixHash(NamedTuple):
    algo: str
    digest: bytes

    def sri(self) -> str:
        return f"{self.algo}-{base64.b64encode(self.digest).decode()}"

    def nix32(self) -> str:
        """With the algorithm in front, as in narinfo and `ca` strings."""
        return f"{self.algo}:{base32.encode(self.digest)}"

    def hex(self) -> str:
        """With the algorithm in front, as in the fingerprints of store paths."""
        return f"{self.algo}:{self.digest.hex()}"


def check_digest(algo: str, digest: bytes) -> NixHash:
    if len(digest) != (size := _digest_size(algo)):
        raise FormatError(f"a {algo} digest has {size} bytes, not {len(digest)}")
    return NixHash(algo, digest)


def parse_hash(text: str, algo: str | None = None) -> NixHash:
    """`algo` is the algorithm known from context; a text that states another one is refused."""
    sri = False
    stated, colon, digest = text.partition(":")
    if not colon:
        stated, dash, digest = text.partition("-")
        sri = bool(dash)
    if colon or sri:
        if algo is not None and stated != algo:
            raise FormatError(f"hash {_quote(text)} should be of type {algo}")
        algo = stated
    else:
        digest = text
    if algo is None:
        raise FormatError(f"hash {_quote(text)} does not say its algorithm")
    size = _digest_size(algo)
    found = _from_base64(digest, size) if sri else _digest(digest, size)
    if found is None:
        raise FormatError(f"hash {_quote(text)} is not a {algo} digest in a known encoding")
    return NixHash(algo, found)


def _digest_size(algo: str) -> int:
    if (size := DIGEST_SIZES.get(algo)) is None:
        known = ", ".join(DIGEST_SIZES)
        raise FormatError(f"unknown hash algorithm {_quote(algo)}, known are {known}")
    return size


def _digest(text: str, size: int) -> bytes | None:
    if len(text) == 2 * size:
        return bytes.fromhex(text) if _HEX.fullmatch(text) else None
    if len(text) == base32.encoded_length(size):
        return base32.decode(text)
    return _from_base64(text, size) if len(text) == (size + 2) // 3 * 4 else None


def _from_base64(text: str, size: int) -> bytes | None:
    digits = text.partition("=")[0]
    # One length only: with it the digits stand for `size` bytes and less than a byte of surplus.
    if len(digits) != (size * 8 + 5) // 6 or not _BASE64.fullmatch(digits):
        return None
    return base64.b64decode(digits + "=" * (-len(digits) % 4))


def _quote(text: str) -> str:
    return repr(text if len(text) <= _QUOTED_MAX else text[:_QUOTED_MAX] + "…")
