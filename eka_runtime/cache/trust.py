"""Whom we believe that a store path has these contents and these references.

A narinfo is believed when a trusted key has signed it. One that is content-addressed needs no
signature: its name follows from contents and references, and both are checked. That does not work
for paths that contain their own name, which take a signature like all others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from eka_runtime.cache.named_node import parse_node
from eka_runtime.castore.node import Node
from eka_runtime.errors import FormatError, HashMismatch, UntrustedError
from eka_runtime.nix.nar import MAGIC, file_header
from eka_runtime.nix.narinfo import NarInfo
from eka_runtime.nix.path import ContentAddress, path_for_ca

if TYPE_CHECKING:
    from eka_runtime.nix.signing import PublicKey

_HINT = (
    "add the public key of whom you trust to `trusted-public-keys` in the table [caches] of"
    " eka.toml, or in nix.conf"
)
_CONTENTS = len(MAGIC + file_header(False, 0))


class Trust(NamedTuple):
    """`all` believes everything: what a cache says is only compared with itself."""

    keys: tuple[PublicKey, ...] = ()
    all: bool = False

    def check(self, info: NarInfo, place: str) -> None:
        """Raises UntrustedError."""
        if self.all or self.signer(info) or addressed(info):
            return
        names = sorted({signature.partition(":")[0] for signature in info.signatures})
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        how = f"signed only by {shown}" if names else "not signed"
        known = ", ".join(sorted({key.name for key in self.keys})) or "none"
        raise UntrustedError(
            f"`{info.path}` in {place} is {how}, and no valid signature is by a trusted key"
            f" (trusted: {known})",
            hint=_HINT,
        )

    def signer(self, info: NarInfo) -> str | None:
        """The name of a trusted key that has signed the narinfo."""
        if not self.keys or not info.signatures:
            return None
        from eka_runtime.nix.signing import fingerprint

        data = fingerprint(info.path, info.nar_hash, info.nar_size, info.references)
        return self._signer(info.signatures, data)

    def node(self, info: NarInfo) -> Node | None:
        """The castore node of the path, if it can be believed before anybody saw the NAR.

        The signature of the node says nothing of references, so that of the path is needed, too.
        """
        node = parse_node(info.castore or "")
        if node is None or self.all:
            return node
        if not info.castore or not info.castore_signatures or not self.signer(info):
            return None
        from eka_runtime.nix.signing import castore_fingerprint

        data = castore_fingerprint(info.path, info.nar_hash, info.nar_size, info.castore)
        return node if self._signer(info.castore_signatures, data) else None

    def _signer(self, signatures: Iterable[str], data: bytes) -> str | None:
        for key in self.keys:
            if any(key.verifies(signature, data) for signature in signatures):
                return key.name
        return None


def addressed(info: NarInfo) -> ContentAddress | None:
    """The content address, if the path follows from it and the contents can tell whether it is
    true."""
    if info.ca is None or info.path in info.references:
        return None
    try:
        address = ContentAddress.parse(info.ca)
        if path_for_ca(info.path.name, address, info.references) != info.path:
            return None
    except FormatError:
        return None
    if address.method == "recursive" and address.hash.algo == "sha256":
        return address if address.hash.digest == info.nar_hash else None
    return address


class ContentCheck:
    """Sees a NAR go by, and tells at its end whether it has the content address."""

    def __init__(self, info: NarInfo, address: ContentAddress) -> None:
        self._info = info
        self._address = address
        self._hash = hashlib.new(address.hash.algo, usedforsecurity=False)
        self._head = b""
        self._left = 0
        self._plain = address.method != "recursive"

    def update(self, data: bytes) -> None:
        if not self._plain:
            self._hash.update(data)
            return
        if len(self._head) < _CONTENTS:
            missing = _CONTENTS - len(self._head)
            self._head, data = self._head + data[:missing], data[missing:]
            if len(self._head) < _CONTENTS:
                return
            self._left = int.from_bytes(self._head[-8:], "little")
        self._hash.update(data[: self._left])
        self._left -= min(self._left, len(data))

    def finish(self) -> None:
        """Raises HashMismatch."""
        # A file that is not executable: Nix makes no others by their contents alone.
        is_file = not self._plain or self._head[:-8] == MAGIC + file_header(False, 0)[:-8]
        if not is_file or self._hash.digest() != self._address.hash.digest:
            raise HashMismatch(
                f"`{self._info.path}` does not have the contents of its address {self._info.ca}",
                hint="nothing of it was kept",
            )


def parse_keys(texts: Iterable[str]) -> tuple[PublicKey, ...]:
    """Raises FormatError."""
    from eka_runtime.nix.signing import PublicKey

    return tuple(dict.fromkeys(PublicKey.parse(text) for text in texts))
