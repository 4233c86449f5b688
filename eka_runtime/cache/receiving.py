"""What clients upload to a cache that is a store: a NAR first, then the narinfo that names it.

Between the two, contents are in the store without a path that needs them, and which NAR they were
is known in memory only: a server that is restarted in between has to be sent the NAR again. Whoever
may upload is trusted, so signatures are kept and not asked for; hashes and references are checked,
and a content address that is not true of the path is not kept.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from eka_runtime.cache.decompress import EXTENSIONS, decompressing
from eka_runtime.castore.ingest import Ingested, ingest_nar
from eka_runtime.errors import FormatError, HashMismatch, StoreError
from eka_runtime.nix import base32
from eka_runtime.nix.nar import NarReader, Read
from eka_runtime.nix.narinfo import MAX_SIZE, parse_narinfo
from eka_runtime.store.pathinfo import PathInfo, wrong_ca
from eka_runtime.store.uploads import put_path_info

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

_REMEMBERED = 100_000
_PIECE = 1 << 18


class Uploads:
    """From any number of threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = threading.Lock()
        self._known: OrderedDict[str, Ingested] = OrderedDict()

    def has(self, name: str) -> bool:
        with self._guard:
            return name in self._known

    def put_nar(self, name: str, file_hash: str, end: str, read: Read) -> None:
        """`file_hash` is the SHA-256 of the body, in nixbase32, which its name states.

        Raises HashMismatch, NarError and what writing raises; nothing is remembered then.
        """
        compression = next(one for one, known in EXTENSIONS.items() if known == end)
        hasher = hashlib.sha256()

        def hashed(size: int) -> bytes:
            data = read(size)
            hasher.update(data)
            return data

        unpacked = decompressing(hashed, compression, "the upload")
        with self._store.batch() as batch:
            ingested = ingest_nar(batch, NarReader(unpacked, subject=f"`{name}`"), jobs=1)
            if unpacked(1):
                raise FormatError(f"`{name}` goes on behind its NAR")
            while hashed(_PIECE):
                # What a decoder leaves unread.
                pass
            if base32.encode(hasher.digest()) != file_hash:
                raise HashMismatch(f"`{name}` does not have the hash that its name says")
            self._store.commit_loose(batch)
        with self._guard:
            self._known[name] = ingested
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def put_narinfo(self, digits: str, read: Read) -> PathInfo:
        """Makes the path valid. Raises FormatError, HashMismatch, StoreError."""
        data = b""
        while len(data) <= MAX_SIZE and (piece := read(_PIECE)):
            data += piece
        info = parse_narinfo(data)
        if info.path.hash != digits:
            raise HashMismatch(f"the narinfo of {digits} is that of `{info.path}`")
        with self._guard:
            ingested = self._known.get(info.url)
        if ingested is None:
            raise StoreError(f"`{info.url}` was not uploaded", hint="send the NAR first")
        if (ingested.nar_hash, ingested.nar_size) != (info.nar_hash, info.nar_size):
            raise HashMismatch(
                f"`{info.url}` is not the NAR that the narinfo of `{info.path}` says"
            )
        made = PathInfo(
            info.path, *ingested, info.references, info.deriver, info.signatures, info.ca
        )
        return put_path_info(self._store, made._replace(ca=None) if wrong_ca(made) else made)
