"""The BLAKE3 digest that names a blob (hash of its bytes) or a directory (hash of its encoding).

Text form is snix's: `blake3-` and padded base64, as in logs and JSON. Hex is for paths only.
Out of scope: Nix's own hashes (`eka_runtime.nix.hashes`).
"""

from __future__ import annotations

import base64
import binascii

from blake3 import blake3

from eka_runtime.errors import DigestError

DIGEST_SIZE = 32
_PREFIX = "blake3-"


class B3Digest(bytes):
    """32 bytes; cannot be built otherwise. Equal to, and hashed like, the plain bytes."""

    __slots__ = ()

    def __new__(cls, raw: bytes) -> B3Digest:
        if len(raw) != DIGEST_SIZE:
            raise DigestError(f"a digest has {DIGEST_SIZE} bytes, not {len(raw)}")
        return super().__new__(cls, raw)

    @classmethod
    def of(cls, data: bytes) -> B3Digest:
        # It has the right length.
        return bytes.__new__(cls, blake3(data).digest())

    @classmethod
    def parse(cls, text: str) -> B3Digest:
        """Accepts what `str()` gives, and nothing else."""
        try:
            raw = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
            digest = cls(raw)
        except (binascii.Error, ValueError, DigestError) as error:
            raise DigestError(f"not a digest: {text[:80]!r}") from error
        # base64 leaves bits unused before the padding: one digest must have one spelling.
        if str(digest) != text:
            raise DigestError(f"not a digest: {text[:80]!r}")
        return digest

    def __str__(self) -> str:
        return _PREFIX + base64.b64encode(self).decode("ascii")

    def __repr__(self) -> str:
        return f"B3Digest({str(self)!r})"
