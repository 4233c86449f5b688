"""An image as a store path: its layers unpacked beside the store, and added as one tree."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from eka_runtime.castore.removal import remove_tree
from eka_runtime.errors import StoreAccessError
from eka_runtime.nix.path import check_name
from eka_runtime.oci.image_read import open_image
from eka_runtime.oci.image_unpack import Unpacked, unpack
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store


def add_image(
    store: Store,
    source: Path,
    name: str,
    platform: Mapping[str, str] | None,
    progress: Callable[[int, int], None] = lambda layers, size: None,
) -> tuple[PathInfo, Unpacked]:
    """`source` as `open_image` takes it. Equal files make an equal path, whatever the layers.

    Raises InvalidStorePath for the name, ImageError, UsageError and StoreAccessError; nothing is in
    the store then.
    """
    check_name(name)
    store.require_writable()
    holder = store.layout.tmp / f"image-{os.urandom(8).hex()}"
    try:
        with open_image(source, platform) as image:
            (holder / "files").mkdir(parents=True)
            unpacked = unpack(image, holder / "tree", holder / "files", progress)
        return store.add_tree(holder / "tree", name=name), unpacked
    except OSError as error:
        raise StoreAccessError(
            f"cannot unpack `{source}`: {error.strerror}", hint="make room in the store's directory"
        ) from error
    finally:
        remove_tree(holder)
