"""Signatures of store paths: Ed25519 over a fingerprint, keys and signatures as Nix writes them.

    fingerprint   1;/nix/store/<base>;sha256:<nixbase32 NAR hash>;<NAR size>;<references with ",">
    of a node     eka-castore-1;/nix/store/<base>;sha256:<nixbase32 NAR hash>;<NAR size>;<node>
    public key    NAME:<base64 of 32 bytes>
    secret key    NAME:<base64 of 64 bytes: seed, public key>
    signature     NAME:<base64 of 64 bytes>

References are absolute and sorted; those who do not sort them refuse good signatures. The second
fingerprint binds a castore node, written as in narinfos, to a path; what begins with another word
is never taken for the first. A name says
whose key it is, not which key: what counts is that the bytes of the key verify the signature.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import NamedTuple

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from eka_runtime.errors import FormatError
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.path import StorePath

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,199}")


class PublicKey(NamedTuple):
    name: str
    key: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        name, key = _split(text, "public key", (32,))
        return cls(name, key)

    def __str__(self) -> str:
        return f"{self.name}:{base64.b64encode(self.key).decode()}"

    def verifies(self, signature: str, data: bytes) -> bool:
        """Whether this key made the signature; False for one that is malformed, too."""
        try:
            name, raw = _split(signature, "signature", (64,))
            if name != self.name:
                return False
            VerifyKey(self.key).verify(data, raw)
        except (FormatError, BadSignatureError):
            return False
        return True


class SecretKey(NamedTuple):
    """`seed` is the secret, which is not shown by accident: only `text` has it."""

    name: str
    seed: bytes

    def __repr__(self) -> str:
        return f"SecretKey(name={self.name!r})"

    @classmethod
    def generate(cls, name: str) -> SecretKey:
        return cls(check_key_name(name), bytes(SigningKey.generate()))

    @classmethod
    def parse(cls, text: str) -> SecretKey:
        """Raises FormatError, which does not quote the text, also when the halves disagree."""
        name, raw = _split(text, "secret key", (64,))
        if bytes(SigningKey(raw[:32]).verify_key) != raw[32:]:
            raise FormatError(f"the secret key `{name}` is damaged: its halves do not agree")
        return cls(name, raw[:32])

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.name, bytes(SigningKey(self.seed).verify_key))

    def text(self) -> str:
        """The form of key files; keep it secret."""
        return f"{self.name}:{base64.b64encode(self.seed + self.public.key).decode()}"

    def sign(self, data: bytes) -> str:
        raw = SigningKey(self.seed).sign(data).signature
        return f"{self.name}:{base64.b64encode(raw).decode()}"


def check_key_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise FormatError(
            f"{name[:80]!r} is not a name for a key",
            hint="Use letters, digits and . _ + @ -, such as `cache.example.org-1`.",
        )
    return name


def fingerprint(
    path: StorePath, nar_hash: bytes, nar_size: int, references: Iterable[StorePath]
) -> bytes:
    """What is signed; `nar_hash` is a SHA-256."""
    digest = NixHash("sha256", nar_hash).nix32()
    return f"1;{path};{digest};{nar_size};{','.join(map(str, sorted(references)))}".encode()


def castore_fingerprint(path: StorePath, nar_hash: bytes, nar_size: int, node: str) -> bytes:
    """What is signed of a castore node; `node` is the text of it in narinfos."""
    digest = NixHash("sha256", nar_hash).nix32()
    return f"eka-castore-1;{path};{digest};{nar_size};{node}".encode()


def _split(text: str, what: str, sizes: tuple[int, ...]) -> tuple[str, bytes]:
    name, colon, digits = text.strip().partition(":")
    if not colon or not name:
        raise FormatError(f"this is not a {what}", hint=f"A {what} is NAME:BASE64.")
    try:
        raw = base64.b64decode(digits, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"the {what} `{name[:80]}` is not base64") from error
    if len(raw) not in sizes:
        raise FormatError(f"the {what} `{name[:80]}` has {len(raw)} bytes, not {sizes[0]}")
    return name, raw
