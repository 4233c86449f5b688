"""Derivations as they lie in a store."""

from __future__ import annotations

import io
from hashlib import sha256

from eka_runtime.castore.ingest import ingest_nar
from eka_runtime.errors import FormatError
from eka_runtime.nix.derivation import MAX_SIZE, Derivation, derivation_name
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.nar import MAGIC, NODE_CLOSE, NarReader, file_header, padding
from eka_runtime.nix.path import ContentAddress, StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store


def read_derivation(store: Store, path: StorePath) -> Derivation:
    """Raises PathNotFound, and FormatError when it is none."""
    name = derivation_name(path)
    if store.info(path).nar_size > MAX_SIZE:
        raise FormatError(f"`{path}` is too large for a derivation")
    parts: list[bytes] = []
    # Views of a buffer that is used again must be copied.
    store.write_file(str(path), lambda data: parts.append(bytes(data)))
    return Derivation.parse(name, b"".join(parts))


def write_derivation(store: Store, drv: Derivation) -> StorePath:
    """Makes its `.drv` a valid path; what it refers to must be valid. Raises StoreError."""
    path, data = drv.path, drv.to_bytes()
    if store.paths.get(path) is None:
        with store.batch() as batch:
            ingested = ingest_nar(batch, NarReader(io.BytesIO(_nar(data)).read))
            address = ContentAddress("text", NixHash("sha256", sha256(data).digest()))
            references = tuple(sorted({*drv.input_drvs, *drv.input_srcs}))
            store.commit(batch, PathInfo(path, *ingested, references=references, ca=str(address)))
    return path


def _nar(data: bytes) -> bytes:
    return MAGIC + file_header(False, len(data)) + data + padding(len(data)) + NODE_CLOSE
