"""Unpacks tar archives in the way of Nix's fetchTarball: the one thing at the top is the result.

Compression (gzip, bzip2, xz, zstd or none) is told by its first bytes. Constraint: archives are
hostile. Nothing is unpacked onto the disk: contents go into one nameless file and the tree is kept
in memory, so names can lead nowhere; sizes and counts are bounded. Permissions are reduced to
"executable by the owner", times and owners are dropped, as in a NAR.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path
from typing import IO, NamedTuple, cast

from eka_runtime.cache.decompress import decompressing
from eka_runtime.errors import FormatError, ServiceError
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.nar import HashingWriter, NarSink, NarWriter

MAX_BYTES = 1 << 35
"""Of the contents of all files together."""

MAX_ENTRIES = 1 << 21
_CHUNK = 1 << 18
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class _File(NamedTuple):
    offset: int
    size: int
    executable: bool


class _Link(NamedTuple):
    target: bytes


_Directory = dict[bytes, "_File | _Link | _Directory"]
_Node = _File | _Link | _Directory


def unpack(archive: str | os.PathLike[str], sink: NarSink) -> None:
    """Tells `sink` about the unpacked tree. Raises FormatError."""
    with tempfile.TemporaryFile() as contents:
        top = _read(Path(archive), contents)
        if len(top) != 1:
            raise FormatError(
                f"the archive has {len(top)} things at its top instead of one directory",
                hint="fetch it as a file: `--tar false`",
            )
        _tell(next(iter(top.values())), b"", sink, contents)


def hash_unpacked(archive: str | os.PathLike[str]) -> NixHash:
    """SHA-256 of the NAR of the unpacked archive. Raises FormatError."""
    hashing = HashingWriter()
    unpack(archive, NarWriter(hashing.write))
    return NixHash("sha256", hashing.digest())


def _read(archive: Path, contents: IO[bytes]) -> _Directory:
    top: _Directory = {}
    try:
        with (
            archive.open("rb") as raw,
            tarfile.open(fileobj=cast(IO[bytes], _Plain(raw, archive.name)), mode="r|") as tar,
        ):
            tar.errors = "surrogateescape"
            for count, member in enumerate(tar):
                if count >= MAX_ENTRIES:
                    raise FormatError(f"the archive has more than {MAX_ENTRIES} entries")
                _add(top, member, tar, contents)
    except ServiceError as error:
        raise FormatError(str(error)) from error
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise FormatError(f"`{archive.name}` is not a readable tar archive: {error}") from error
    return top


class _Plain:
    """What tarfile reads from: the archive, unpacked by what its first bytes say it is."""

    def __init__(self, raw: IO[bytes], name: str) -> None:
        magic = raw.read(6)
        raw.seek(0)
        kinds = (kind for mark, kind in _MAGIC.items() if magic.startswith(mark))
        self.read = decompressing(raw.read, next(kinds, "none"), f"`{name}`")


def _add(top: _Directory, member: tarfile.TarInfo, tar: tarfile.TarFile, out: IO[bytes]) -> None:
    parts = _parts(member.name)
    if not parts:
        return
    directory = top
    for part in parts[:-1]:
        directory = _enter(directory, part, member.name)
    name = parts[-1]
    if member.isdir():
        _enter(directory, name, member.name)
    elif member.issym():
        directory[name] = _Link(os.fsencode(member.linkname))
    elif member.islnk():
        directory[name] = _linked(top, member)
    elif member.isreg():
        directory[name] = _stored(member, tar, out)
    else:
        raise FormatError(f"{member.name!r} in the archive is neither file, directory nor link")


def _parts(name: str) -> list[bytes]:
    parts = [part for part in os.fsencode(name).split(b"/") if part not in (b"", b".")]
    if b".." in parts or name.startswith("/"):
        raise FormatError(f"{name!r} leads out of the archive")
    return parts


def _enter(directory: _Directory, part: bytes, name: str) -> _Directory:
    inner = directory.setdefault(part, {})
    if not isinstance(inner, dict):
        raise FormatError(f"{name!r} is below something in the archive that is no directory")
    return inner


def _linked(top: _Directory, member: tarfile.TarInfo) -> _File:
    node: _Node | None = top
    for part in _parts(member.linkname):
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, _File):
        raise FormatError(f"{member.name!r} is a link to no file of the archive")
    return node


def _stored(member: tarfile.TarInfo, tar: tarfile.TarFile, out: IO[bytes]) -> _File:
    offset = out.seek(0, os.SEEK_END)
    if offset + member.size > MAX_BYTES:
        raise FormatError(f"the archive has more than {MAX_BYTES} bytes")
    stream = tar.extractfile(member)
    assert stream is not None  # it is regular
    left = member.size
    while left:
        data = stream.read(min(left, _CHUNK))
        if not data:
            raise FormatError(f"{member.name!r} in the archive is cut off")
        out.write(data)
        left -= len(data)
    return _File(offset, member.size, bool(member.mode & 0o100))


def _tell(node: _Node, name: bytes, sink: NarSink, contents: IO[bytes]) -> None:
    if isinstance(node, _Link):
        sink.symlink(name, node.target)
    elif isinstance(node, _File):
        contents.seek(node.offset)
        left = node.size

        def read(size: int) -> bytes:
            nonlocal left
            data = contents.read(min(size, left))
            left -= len(data)
            return data

        sink.file(name, node.executable, node.size, read)
    else:
        sink.directory(name)
        for inner in sorted(node):
            _tell(node[inner], inner, sink, contents)
        sink.end_directory()
