"""The process that serves a fuse view beside the program: `fuse.py` says how it is started.

It lives in the pid namespace of the run, whose first process starts it and takes it along. When it
dies on its own the kernel answers whoever reads from the view with ENOTCONN. With a socket, blobs
that the store lacks are asked for there (`asked.py`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.directories import decode_verified
from eka_runtime.castore.node import Directory
from eka_runtime.castore.services import BlobService
from eka_runtime.errors import EkaError, StoreCorrupt
from eka_runtime.linux.fuse import Session
from eka_runtime.nix import base32
from eka_runtime.store.closure_views import CLOSURE
from eka_runtime.store.layout import Layout
from eka_runtime.store.store import Store
from eka_runtime.view.castore_fs import CastoreFs, Fixed, Sources


def main(device: int, store: str, name: str, socket: str = "") -> NoReturn:
    """Serves view `name` of the store to the kernel's connection `device` until the run is over."""
    status = 1
    try:
        _serve(device, Path(store), name, socket)
        status = 0
    except (EkaError, OSError) as error:
        log(f"cannot serve the view: {error}")
    finally:
        # Nothing here is worth an orderly end, and threads may hang on a network.
        os._exit(status)


def _serve(device: int, root: Path, name: str, socket: str) -> None:
    with Store.open(root, create=False) as store:
        closure = _closure(store.layout, name)
        blobs: BlobService = store.blobs
        if socket:
            from eka_runtime.view.asked import AskedBlobs

            os.chdir(os.path.dirname(socket))
            blobs = AskedBlobs(blobs, os.path.basename(socket))
        sources = Sources(Fixed(closure), blobs, store.directories, local=not socket)
        Session(device, CastoreFs(sources, log)).serve()


def _closure(layout: Layout, name: str) -> Directory:
    data = (layout.fuse_view / name / CLOSURE).read_bytes()
    digest = B3Digest.of(data)
    if not name == base32.encode(digest[: len(name) * 5 // 8]):
        raise StoreCorrupt(
            f"the view `{layout.fuse_view / name}` is damaged", hint="remove it; it is a cache"
        )
    return decode_verified(digest, data)


def log(text: str) -> None:
    """For the person who started the program; who has closed his stderr learns nothing."""
    try:
        os.write(2, f"eka: {text}\n".encode(errors="replace"))
    except OSError:
        return
