"""Exports that are directories of files: a root file system, or a bundle that has everything in it.

    ROOTFS/                       for `podman run --rootfs`, `systemd-nspawn -D`, chroot
    BUNDLE/config.json, rootfs/   for `crun run -b`, `runc run -b`

Files are copies (reflinks where the file system can), never links: whoever gets a root file system
may write to it, and must not reach the store through it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from eka.config import Settings
from eka.exporting import Export
from eka.fetching import Reach
from eka.prepare import Prepared, prepare
from eka_runtime.castore.checkout import checkout
from eka_runtime.errors import StoreAccessError
from eka_runtime.oci.bundle import write_bundle
from eka_runtime.oci.image import File
from eka_runtime.oci.image_root import RootUser, image_rootfs
from eka_runtime.oci.profile import load_profile
from eka_runtime.oci.rootfs import write_entries
from eka_runtime.store.store import Store
from eka_runtime.store.transfer import Verified

Progress = Callable[[int, int], None]
"""Store paths and bytes so far."""


def write_rootfs(
    store: Store, export: Export, user: RootUser, dest: Path, progress: Progress
) -> None:
    """Fills the empty directory `dest`. Raises StoreAccessError and StoreCorrupt."""
    entries = image_rootfs(load_profile("run"), export.shell, user)
    try:
        write_entries(dest, entries, copy=True)
        _write_contents(store, export, dest, progress)
    except OSError as error:
        raise _cannot(dest, error) from error


def contained_bundle(export: Export, settings: Settings, reach: Reach) -> Prepared:
    """A bundle that needs nothing of the store; `fill_bundle` puts everything into it."""
    arguments = export.arguments if export.words else ()
    wanted = export.wanted._replace(script=None, arguments=arguments)
    if export.file and wanted.program:
        wanted = wanted._replace(program=wanted.program._replace(file=export.file.place))
    # runc starts users other than root as uid 0 of their namespace only; crun does either.
    return prepare(wanted, settings, reach, os.geteuid() != 0, contained=True)


def fill_bundle(
    store: Store, export: Export, prepared: Prepared, dest: Path, progress: Progress
) -> None:
    """Makes `dest`, an empty directory, the bundle. Raises as `write_bundle` and `write_rootfs`."""
    write_bundle(prepared.bundle, dest)
    try:
        _write_contents(store, export, dest / "rootfs", progress)
    except OSError as error:
        raise _cannot(dest, error) from error


def _write_contents(store: Store, export: Export, root: Path, progress: Progress) -> None:
    blobs, size = Verified(store.blobs), 0
    for number, (path, info) in enumerate(sorted(export.infos.items()), 1):
        place = root / str(path)[1:]
        checkout(info.node, place, blobs, store.directories, link=None, canonical=True)
        progress(number, size := size + info.nar_size)
    if export.file is not None:
        _write_file(root, export.file)


def _write_file(root: Path, file: File) -> None:
    place = root / file.place[1:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(file.data)
    place.chmod(0o555 if file.executable else 0o444)


def _cannot(dest: Path, error: OSError) -> StoreAccessError:
    return StoreAccessError(
        f"cannot write `{dest}`: {error.strerror}", hint="make room, or write it elsewhere"
    )
