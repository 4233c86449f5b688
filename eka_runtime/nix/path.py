"""Store paths, and how content determines them.

    /nix/store/<32 nixbase32 digits>-<name>

The digits are the SHA-256 of a fingerprint, folded to 20 bytes:
`<type>:sha256:<inner hash in hex>:/nix/store:<name>`. For content the type is `text`, `source` or
`output:out`; the first two carry the references, so equal contents with other references have
another path. For what a derivation makes the type is `output:<name>` and the inner hash that of the
derivation, which `outputs.py` computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from eka_runtime.errors import FormatError, InvalidStorePath
from eka_runtime.nix import base32
from eka_runtime.nix.hashes import NixHash, check_digest, parse_hash

STORE_DIR = "/nix/store"
HASH_SIZE = 20
HASH_LENGTH = 32
MAX_NAME = 211
MAX_PATH = len(STORE_DIR) + 1 + HASH_LENGTH + 1 + MAX_NAME

_PREFIX = STORE_DIR + "/"
_BASE = re.compile(rf"([{base32.ALPHABET}]{{{HASH_LENGTH}}})-(.*)", re.DOTALL)
_STRANGE = re.compile(r"[^A-Za-z0-9+\-._?=]")
_QUOTED_MAX = 2 * MAX_PATH


class StorePath(NamedTuple):
    """Valid when made by `parse` or `from_base`; sorts like its text."""

    hash: str
    name: str

    @classmethod
    def parse(cls, text: str) -> StorePath:
        if not text.startswith(_PREFIX):
            raise InvalidStorePath(f"{_quote(text)} is not below {STORE_DIR}")
        return cls.from_base(text[len(_PREFIX) :])

    @classmethod
    def from_base(cls, base: str) -> StorePath:
        if not (match := _BASE.fullmatch(base)):
            raise InvalidStorePath(
                f"{_quote(base)} does not begin with {HASH_LENGTH} nixbase32 digits and a dash"
            )
        return cls(match[1], check_name(match[2]))

    @property
    def base(self) -> str:
        return f"{self.hash}-{self.name}"

    @property
    def digest(self) -> bytes:
        return base32.decode(self.hash)

    def __str__(self) -> str:
        return f"{_PREFIX}{self.hash}-{self.name}"


def split(text: str) -> tuple[StorePath, str]:
    """`/nix/store/<base>/sub/dir` as path and `sub/dir`; the latter is not normalized."""
    if not text.startswith(_PREFIX):
        raise InvalidStorePath(f"{_quote(text)} is not below {STORE_DIR}")
    base, _, inside = text[len(_PREFIX) :].partition("/")
    return StorePath.from_base(base), inside.strip("/")


def check_name(name: str) -> str:
    """The name, if a store path may have it; the rules are those of Nix since 2.24."""
    if not 1 <= len(name) <= MAX_NAME:
        raise InvalidStorePath(
            f"store path name {_quote(name)} has {len(name)} characters, not 1 to {MAX_NAME}"
        )
    if strange := _STRANGE.search(name):
        raise InvalidStorePath(
            f"store path name {_quote(name)} contains {strange[0]!r}",
            hint="Use letters, digits and + - . _ ? = only.",
        )
    if name.partition("-")[0] in (".", ".."):
        raise InvalidStorePath(f"store path name {_quote(name)} begins like a directory's . or ..")
    return name


def source_path(
    name: str,
    nar_sha256: bytes,
    references: Iterable[StorePath] = (),
    self_reference: bool = False,
) -> StorePath:
    """Of a tree by its NAR, as `nix-store --add` does; for one that contains its own path, the
    hash is that of the NAR in which its own digits are zeroed (Nix's hash modulo)."""
    kind = ":".join(["source", *_texts(references), *(["self"] if self_reference else [])])
    return _path(kind, check_digest("sha256", nar_sha256), name)


def text_path(name: str, content_sha256: bytes, references: Iterable[StorePath] = ()) -> StorePath:
    """Of a plain file by its contents: `builtins.toFile` and derivations."""
    kind = ":".join(["text", *_texts(references)])
    return _path(kind, check_digest("sha256", content_sha256), name)


def fixed_path(name: str, algo: str, digest: bytes, recursive: bool) -> StorePath:
    """Of a fixed output: `digest` is of the NAR if recursive, else of the file's contents."""
    stated = check_digest(algo, digest)
    if recursive and algo == "sha256":
        return source_path(name, digest)
    fingerprint = f"fixed:out:{'r:' if recursive else ''}{stated.hex()}:"
    inner = _sha256(fingerprint)
    return _path("output:out", NixHash("sha256", inner), name)


def output_path(output: str, modulo: bytes, name: str) -> StorePath:
    """Of an output addressed by what it is made from; `modulo` is the derivation's hash modulo."""
    return _path(f"output:{output}", check_digest("sha256", modulo), name)


def scratch_path(drv: StorePath, output: str, name: str) -> StorePath:
    """Where an output is written whose path follows from its contents, as Nix does: contents that
    hide their path from a rewriting depend on it."""
    return _path(f"rewrite:{drv.base}:name:{output}", NixHash("sha256", bytes(32)), name)


class ContentAddress(NamedTuple):
    """A `ca` string: how a path follows from contents. `method` is text, flat or recursive."""

    method: str
    hash: NixHash

    @classmethod
    def parse(cls, text: str) -> ContentAddress:
        kind, _, rest = text.partition(":")
        if kind == "text":
            found = cls("text", parse_hash(rest))
            if found.hash.algo != "sha256":
                raise FormatError(f"content address {_quote(text)} must be text:sha256:…")
            return found
        if kind != "fixed" or rest.startswith("git:"):
            raise FormatError(
                f"content address {_quote(text)} is none of text:…, fixed:… and fixed:r:…"
            )
        recursive = rest.startswith("r:")
        digest = rest[2:] if recursive else rest
        if ":" not in digest:
            raise FormatError(f"content address {_quote(text)} lacks an algorithm or a digest")
        return cls("recursive" if recursive else "flat", parse_hash(digest))

    def __str__(self) -> str:
        prefix = {"text": "text:", "flat": "fixed:", "recursive": "fixed:r:"}[self.method]
        return prefix + self.hash.nix32()


def path_for_ca(
    name: str,
    ca: str | ContentAddress,
    references: Iterable[StorePath] = (),
    self_reference: bool = False,
) -> StorePath:
    """The one path that a content address allows; FormatError if it allows none.

    `references` are the other paths'; whether the path refers to itself is told separately.
    """
    method, stated = ContentAddress.parse(ca) if isinstance(ca, str) else ca
    if method == "recursive" and stated.algo == "sha256":
        return source_path(name, stated.digest, references, self_reference)
    if self_reference:
        raise FormatError(f"content address {ca} does not allow a reference to itself")
    if method == "text":
        return text_path(name, stated.digest, references)
    if tuple(references):
        raise FormatError(f"content address {ca} does not allow references")
    return fixed_path(name, stated.algo, stated.digest, method == "recursive")


def _texts(references: Iterable[StorePath]) -> list[str]:
    return sorted(set(map(str, references)))


def _path(kind: str, inner: NixHash, name: str) -> StorePath:
    fingerprint = f"{kind}:{inner.hex()}:{STORE_DIR}:{check_name(name)}"
    digest = bytearray(_sha256(fingerprint))
    for index in range(HASH_SIZE, len(digest)):
        digest[index - HASH_SIZE] ^= digest[index]
    return StorePath(base32.encode(bytes(digest[:HASH_SIZE])), name)


def _quote(text: str) -> str:
    return repr(text if len(text) <= _QUOTED_MAX else text[:_QUOTED_MAX] + "…")


def _sha256(text: str) -> bytes:
    # Here, since OpenSSL takes longer to be loaded than many a command takes.
    import hashlib

    return hashlib.sha256(text.encode()).digest()
