"""The layers of an image as one tree, for a store: what a container would see, and nothing else.

Layers are applied in memory (names, links, kinds), and only then made on disk, in a directory of
our own: no member of any archive can name a place that exists. Contents go to a flat directory
first. Whiteouts and opaque directories are those of the image-spec (layer.md). A store keeps
contents, links and the owner's execute bit; owners, other modes, devices and sockets are dropped.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from eka_runtime.errors import ImageError
from eka_runtime.oci.image_read import MAX_UNPACKED, Image

MAX_ENTRIES = 4_000_000

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_MAX_LINKS = 40
_MAX_DEPTH = 256
_CHUNK = 1 << 20


class _File:
    __slots__ = ("executable", "layer", "spool")

    def __init__(self, spool: str, executable: bool, layer: int) -> None:
        self.spool, self.executable, self.layer = spool, executable, layer


class _Link:
    __slots__ = ("layer", "target")

    def __init__(self, target: str, layer: int) -> None:
        self.target, self.layer = target, layer


class _Directory:
    __slots__ = ("entries", "layer")

    def __init__(self, layer: int) -> None:
        self.entries: dict[str, _Entry] = {}
        self.layer = layer


_Entry = _File | _Link | _Directory


class Unpacked(NamedTuple):
    """`dropped` are devices and sockets; sizes in bytes."""

    files: int
    size: int
    dropped: int


def unpack(
    image: Image,
    dest: Path,
    scratch: Path,
    progress: Callable[[int, int], None] = lambda layers, size: None,
) -> Unpacked:
    """Makes the directory `dest`; `scratch`, an empty directory, must be on its file system.

    Raises ImageError, and OSError; what was made up to then is the caller's to remove.
    """
    tree = _Tree(scratch)
    for number in range(len(image.layers)):
        with image.layer(number, MAX_UNPACKED - tree.size) as stream:
            tree.apply(stream, number)
        progress(number + 1, tree.size)
    made = _make(tree.root, dest)
    return Unpacked(made, tree.size, tree.dropped)


class _Tree:
    def __init__(self, scratch: Path) -> None:
        self.root = _Directory(0)
        self.size = self.dropped = 0
        self._scratch = scratch
        self._count = 0
        self._layer = 0

    def apply(self, stream: BinaryIO, layer: int) -> None:
        self._layer = layer
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as tar:
                for member in tar:
                    self._member(tar, member)
        except (tarfile.TarError, EOFError) as error:
            raise ImageError(f"layer {layer + 1} is not a tar archive: {error}") from error

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self._count += 1
        if self._count > MAX_ENTRIES:
            raise ImageError(f"the image has more than {MAX_ENTRIES} entries")
        parts = _parts(member.name)
        if not parts:
            return
        name = parts[-1]
        if name == _OPAQUE:
            self._hide(self._directory(parts[:-1]), None)
        elif name.startswith(_WHITEOUT):
            self._hide(self._directory(parts[:-1]), name.removeprefix(_WHITEOUT))
        elif member.isdir():
            self._directory(parts)
        elif member.issym():
            self._put(parts, _Link(_target(member), self._layer))
        elif member.islnk():
            self._put(parts, self._linked(member))
        elif member.isreg():
            self._put(parts, self._spooled(tar, member))
        else:
            self.dropped += 1

    def _hide(self, directory: _Directory, name: str | None) -> None:
        """What lower layers have there, or one name of it."""
        names = list(directory.entries) if name is None else [name]
        for one in names:
            entry = directory.entries.get(one)
            if isinstance(entry, _Directory):
                self._hide(entry, None)
                if not entry.entries and entry.layer < self._layer:
                    del directory.entries[one]
            elif entry is not None and entry.layer < self._layer:
                del directory.entries[one]

    def _put(self, parts: list[str], entry: _Entry) -> None:
        self._directory(parts[:-1]).entries[parts[-1]] = entry

    def _spooled(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> _File:
        place = f"{self._scratch}/{self._count}"
        reader = tar.extractfile(member)
        with open(place, "xb") as out:
            while reader and (data := reader.read(_CHUNK)):
                out.write(data)
                self.size += len(data)
        return _File(place, bool(member.mode & 0o100), self._layer)

    def _linked(self, member: tarfile.TarInfo) -> _Entry:
        parts = _parts(member.linkname)
        entry = self._directory(parts[:-1]).entries.get(parts[-1]) if parts else None
        if isinstance(entry, _Link):
            return _Link(entry.target, self._layer)
        if not isinstance(entry, _File):
            raise ImageError(f"`{member.name}` is a link to `{member.linkname}`, which is no file")
        return _File(entry.spool, entry.executable, self._layer)

    def _directory(self, parts: list[str]) -> _Directory:
        """At this path, made where it is missing; links on the way lead inside the tree."""
        place: list[_Directory] = [self.root]
        pending, links = list(reversed(parts)), 0
        while pending:
            part = pending.pop()
            if part == "..":
                place[1:] = place[1:-1]
                continue
            entry = place[-1].entries.get(part)
            if isinstance(entry, _Link):
                links += 1
                if links > _MAX_LINKS:
                    raise ImageError(f"`{'/'.join(parts)}` leads through too many links")
                if entry.target.startswith("/"):
                    place = [self.root]
                pending += reversed(
                    [one for one in entry.target.split("/") if one not in ("", ".")]
                )
                continue
            if not isinstance(entry, _Directory):
                entry = place[-1].entries[part] = _Directory(self._layer)
            place.append(entry)
            if len(place) + len(pending) > _MAX_DEPTH:
                raise ImageError(f"`{'/'.join(parts)[:200]}` is too deep")
        return place[-1]


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise ImageError(f"a layer has the name {name[:200]!r}")
    if any(len(os.fsencode(part)) > 255 for part in parts):
        raise ImageError(f"a layer has a name that is too long: {name[:100]!r}…")
    return parts


def _target(member: tarfile.TarInfo) -> str:
    target = member.linkname
    if not target or "\0" in target or len(os.fsencode(target)) > 4095:
        raise ImageError(f"`{member.name}` is a link to {target[:200]!r}")
    return target


def _make(root: _Directory, dest: Path) -> int:
    """Returns the number of files."""
    count = 0
    pending = [(root, os.fspath(dest))]
    used: set[str] = set()
    while pending:
        directory, place = pending.pop()
        os.mkdir(place, 0o755)
        for name, entry in directory.entries.items():
            inside = f"{place}/{name}"
            if isinstance(entry, _Directory):
                pending.append((entry, inside))
            elif isinstance(entry, _Link):
                os.symlink(entry.target, inside)
            else:
                count += 1
                # A file with several names stays at its first place until all have been made.
                os.link(entry.spool, inside)
                if entry.spool not in used:
                    used.add(entry.spool)
                    os.chmod(inside, 0o755 if entry.executable else 0o644)
    return count
