"""Damage to single blobs, wherever they lie, as disks and people do it."""

from __future__ import annotations

import os
from pathlib import Path

from eka_runtime.castore.blobs import BlobRow, LocalBlobs
from eka_runtime.castore.packs import pack_name


def container(blobs: LocalBlobs, row: BlobRow) -> Path:
    """The file that a blob lies in: its own, or a pack."""
    if row.name:
        return blobs.directory / row.name
    return blobs.packs.directory / pack_name(row.pack)


def change(blobs: LocalBlobs, row: BlobRow, at: int = 0) -> None:
    """Makes one byte another, and leaves mode and times."""
    place = container(blobs, row)
    status = place.stat()
    place.chmod(0o644)
    fd = os.open(place, os.O_RDWR)
    [byte] = os.pread(fd, 1, row.start + at)
    os.pwrite(fd, bytes([byte ^ 0x20]), row.start + at)
    os.close(fd)
    place.chmod(status.st_mode & 0o7777)
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))


def shorten(blobs: LocalBlobs, row: BlobRow, by: int = 1) -> None:
    """Cuts off the end of the blob, and in a pack all that is behind it."""
    place = container(blobs, row)
    status = place.stat()
    place.chmod(0o644)
    os.truncate(place, row.start + row.size - by)
    place.chmod(status.st_mode & 0o7777)
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))


def remove(blobs: LocalBlobs, row: BlobRow) -> None:
    """Removes its file, or the whole pack."""
    # A pack that was read from stays open, and readable.
    blobs.packs.close()
    container(blobs, row).unlink()
