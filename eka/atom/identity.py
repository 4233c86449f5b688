"""Who an atom is: its set's genesis and its label, hashed.

    key  = BLAKE3 derive_key, context "AtomId", key material the genesis (20 raw bytes)
    hash = BLAKE3 keyed by it, over the UTF-8 of the label
    id   = base32hex(hash), lower case, no padding: 52 characters

The version is no part of it, nor is the content. The genesis of a repository is its root commit,
found by `find_genesis`; a set that is not in git has twenty zero bytes.
"""

from __future__ import annotations

import base64
import heapq
import re
from collections.abc import Callable

from eka_runtime.errors import FormatError

ID_LENGTH = 52
NO_GENESIS = "0" * 40
"""Of sets outside git: all of them share one name space."""

_CONTEXT = "AtomId"
_ID = re.compile(r"[0-9a-v]{51}[0g]")
_GIT_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def git_id(text: str) -> str:
    """A full git object id in lower case, SHA-1 or SHA-256. Raises FormatError."""
    if _GIT_ID.fullmatch(lower := text.lower()) is None:
        raise FormatError(
            f"{text[:80]!r} is not a git object id", hint="write all 40 hexadecimal digits"
        )
    return lower


def atom_id(genesis: str, label: str) -> str:
    """`genesis` in hex, `label` normalized (`names.label`)."""
    from blake3 import blake3

    key = blake3(bytes.fromhex(genesis), derive_key_context=_CONTEXT).digest()
    return encode_id(blake3(label.encode(), key=key).digest())


def encode_id(digest: bytes) -> str:
    return base64.b32hexencode(digest).decode().lower().rstrip("=")


def decode_id(text: str) -> bytes:
    """The 32 bytes. Raises FormatError."""
    if _ID.fullmatch(text) is None:
        raise FormatError(
            f"{text[:80]!r} is not an atom id",
            hint=f"ids are {ID_LENGTH} characters of 0-9 and a-v; see `eka atom id LABEL`",
        )
    return base64.b32hexdecode(text.upper() + "====")


def find_genesis(
    start: str, committed: Callable[[str], int], parents: Callable[[str], list[str]]
) -> str:
    """The root commit that upstream's walk finds first from `start`.

    Always goes on from the commit with the oldest committer time of those known, which is not the
    globally oldest root where histories were merged. Ties go to the smaller id.
    """
    queue = [(committed(start), start)]
    seen = {start}
    while True:
        _, commit = heapq.heappop(queue)
        above = parents(commit)
        if not above:
            return commit
        for parent in above:
            if parent not in seen:
                seen.add(parent)
                heapq.heappush(queue, (committed(parent), parent))
