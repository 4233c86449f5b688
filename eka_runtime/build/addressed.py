"""Contents that say where they belong: their hashes, also where they contain their own path.

The hash of something that names itself is taken with those 32 digits as zero bytes, followed by
`|<offset>` for each place where they stood, so that it is not that of contents with zeros in them
(Nix's `HashModuloSink`). What a builder wrote under a scratch path is then read anew with the final
one in its place, which has the same length.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from eka_runtime.build.references import Rewriter
from eka_runtime.castore.batch import Batch
from eka_runtime.castore.dump import dump_tree
from eka_runtime.castore.ingest import Ingested, ingest_nar
from eka_runtime.nix.derivation import Output
from eka_runtime.nix.nar import NarReader
from eka_runtime.nix.path import HASH_LENGTH, StorePath
from eka_runtime.nix.tokens import Write

_CHUNK = 1 << 20

Moved = Mapping[StorePath, StorePath]


def content_hash(place: Path, ingested: Ingested, output: Output) -> bytes:
    """As the output's method and algorithm want it, of what is at `place`."""
    if output.method == "recursive" and output.hash_algo == "sha256":
        return ingested.nar_hash
    hasher = hashlib.new(output.hash_algo)
    _contents(place, output.method, hasher.update)
    return hasher.digest()


def modulo_hash(place: Path, output: Output, own: StorePath | None, moved: Moved) -> bytes:
    """Of contents with the `moved` paths in their new places, modulo their `own` path."""
    hasher = hashlib.new(output.hash_algo)
    zeroed = {own.hash.encode(): bytes(HASH_LENGTH)} if own else {}
    modulo = Rewriter(zeroed, hasher.update)
    siblings = Rewriter(_texts(moved), modulo.update)
    _contents(place, output.method, siblings.update)
    siblings.finish()
    modulo.finish()
    for position in modulo.positions:
        hasher.update(b"|%d" % position)
    return hasher.digest()


def ingest_rewritten(batch: Batch, place: Path, moved: Moved) -> Ingested:
    """Takes in a tree with some store paths replaced by others of names as long."""
    with tempfile.TemporaryFile(dir=place.parent, buffering=0) as file:
        rewriter = Rewriter(_texts(moved), lambda data: _write_all(file, data))
        dump_tree(place, rewriter.update)
        rewriter.finish()
        file.seek(0)
        return ingest_nar(batch, NarReader(lambda size: file.read(size) or b""))


def _contents(place: Path, method: str, write: Write) -> None:
    if method == "recursive":
        dump_tree(place, write)
        return
    with open(place, "rb") as file:
        while data := file.read(_CHUNK):
            write(data)


def _texts(moved: Moved) -> dict[bytes, bytes]:
    return {old.hash.encode(): new.hash.encode() for old, new in moved.items()}


def _write_all(file: IO[bytes], data: bytes) -> None:
    while data:
        data = data[file.write(data) :]
