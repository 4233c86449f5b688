"""Reads images that others made: OCI layouts, and archives of layouts or of `docker save`.

Everything in them is hostile. Documents are bounded and validated, blobs are compared with their
digests as they are read, and nothing is executed or believed. Out of scope: what is in the layers
(`image_unpack.py`), registries.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from eka_runtime.errors import ImageError, UsageError
from eka_runtime.oci.image import INDEX
from eka_runtime.oci.image_platform import host_platform

MAX_DOCUMENT = 4 << 20
MAX_LAYERS = 500
MAX_UNPACKED = 64 << 30
"""Bytes of all layers together, so that a few kilobytes cannot fill a disk."""

_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MAX_DEPTH = 4
_CHUNK = 1 << 18


class LayerRef(NamedTuple):
    """`digest` is None where the archive states none; `name` is for people."""

    name: str
    digest: str | None


class _Files(Protocol):
    """Files of a layout, by their names in it."""

    def open(self, name: str) -> BinaryIO: ...

    def has(self, name: str) -> bool: ...


class _Directory:
    def __init__(self, place: Path) -> None:
        self._place = place

    def has(self, name: str) -> bool:
        return (self._place / name).is_file()

    def open(self, name: str) -> BinaryIO:
        try:
            return open(self._place / name, "rb")
        except OSError as error:
            raise ImageError(f"the image lacks `{name}`: {error.strerror}") from error


class _Archive:
    """Members are found by name; a link or a directory is not one."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members = {_plain(member.name): member for member in tar if member.isreg()}

    def has(self, name: str) -> bool:
        return _plain(name) in self._members

    def open(self, name: str) -> BinaryIO:
        member = self._members.get(_plain(name))
        stream = self._tar.extractfile(member) if member else None
        if stream is None:
            raise ImageError(f"the image lacks `{name}`")
        return cast("BinaryIO", stream)


def _plain(name: str) -> str:
    return name.removeprefix("./")


class Image:
    """Made by `open_image`. `layers` are lowest first, `config` is the image's own document."""

    def __init__(
        self, files: _Files, layers: list[tuple[str, LayerRef]], config: Mapping[str, Any]
    ) -> None:
        self._files = files
        self._layers = layers
        self.config = config

    @property
    def layers(self) -> list[LayerRef]:
        return [layer for _, layer in self._layers]

    @contextmanager
    def layer(self, number: int, limit: int = MAX_UNPACKED) -> Iterator[BinaryIO]:
        """The tar stream of a layer, unpacked. Raises ImageError, also at the end, if it has
        another digest, or more than `limit` bytes unpacked."""
        name, ref = self._layers[number]
        with self._files.open(name) as stream:
            checked = _Checked(stream, ref.digest)
            yield cast("BinaryIO", _Bounded(_decoded(checked), limit))
            checked.finish()


@contextmanager
def open_image(source: Path, platform: Mapping[str, str] | None = None) -> Iterator[Image]:
    """A layout's directory, or an archive of either kind. Raises ImageError and UsageError.

    Of an index, the image for `platform` is taken, by default for this host.
    """
    if source.is_dir():
        yield _from_layout(_Directory(source), platform)
        return
    try:
        with tarfile.open(source, "r:*") as tar:
            files = _Archive(tar)
            if files.has("index.json"):
                yield _from_layout(files, platform)
            else:
                yield _from_docker(files)
    except OSError as error:
        raise UsageError(f"cannot read `{source}`: {error.strerror}") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ImageError(f"`{source}` is not an archive of an image: {error}") from error


def _from_layout(files: _Files, platform: Mapping[str, str] | None) -> Image:
    document = _document(files, "index.json", None)
    for _ in range(_MAX_DEPTH):
        chosen = _choose(document, platform or host_platform())
        document = _document(files, *_blob(chosen))
        if chosen.get("mediaType") not in (INDEX, _DOCKER_LIST):
            break
    layers = _list(document, "layers")
    if len(layers) > MAX_LAYERS:
        raise ImageError(f"the image has {len(layers)} layers; {MAX_LAYERS} are allowed")
    config = _document(files, *_blob(_mapping(document, "config")))
    found = []
    for layer in layers:
        name, digest = _blob(layer)
        found.append((name, LayerRef(str(digest), digest)))
    return Image(files, found, config)


def _choose(index: Mapping[str, Any], platform: Mapping[str, str]) -> Mapping[str, Any]:
    manifests = [one for one in _list(index, "manifests") if isinstance(one, dict)]
    if len(manifests) == 1:
        return cast("Mapping[str, Any]", manifests[0])
    for one in manifests:
        stated = one.get("platform")
        if isinstance(stated, dict) and all(stated.get(k) == v for k, v in platform.items()):
            return cast("Mapping[str, Any]", one)
    wanted = "/".join(filter(None, map(platform.get, ("os", "architecture", "variant"))))
    raise UsageError(
        f"the image has {len(manifests)} parts, and none for {wanted}",
        hint="name another platform with `--platform`",
    )


def _from_docker(files: _Files) -> Image:
    entries = _document(files, "manifest.json", None, kind=list)
    if len(entries) != 1 or not isinstance(entries[0], dict):
        raise ImageError(f"the archive has {len(entries)} images, not one")
    [entry] = entries
    names = [name for name in _list(entry, "Layers") if isinstance(name, str)]
    config_name = entry.get("Config")
    if len(names) != len(_list(entry, "Layers")) or len(names) > MAX_LAYERS:
        raise ImageError("manifest.json: `Layers` is not a list of names")
    if not isinstance(config_name, str):
        raise ImageError("manifest.json: `Config` is not a name")
    config = _document(files, config_name, None)
    diff_ids = _list(_mapping(config, "rootfs"), "diff_ids")
    if len(diff_ids) != len(names):
        raise ImageError("the configuration names another number of layers than the archive")
    return Image(files, [(name, LayerRef(name, None)) for name in names], config)


def _document(files: _Files, name: str, digest: str | None, kind: type = dict) -> Any:
    with files.open(name) as stream:
        data = stream.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise ImageError(f"`{name}` is larger than {MAX_DOCUMENT >> 20} MiB")
    if digest is not None and digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
        raise ImageError(f"`{name}` is not what its digest says")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"`{name}` is not JSON: {error}") from error
    if not isinstance(found, kind):
        raise ImageError(f"`{name}` is not a JSON {'object' if kind is dict else 'array'}")
    return found


def _blob(descriptor: object) -> tuple[str, str]:
    """Place and digest."""
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise ImageError(f"a descriptor has no sha256 digest: {str(descriptor)[:200]}")
    return f"blobs/sha256/{match[1]}", match[0]


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    found = data.get(key)
    if not isinstance(found, list):
        raise ImageError(f"`{key}` is not a list")
    return found


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = data.get(key)
    if not isinstance(found, dict):
        raise ImageError(f"`{key}` is not an object")
    return found


class _Checked(io.RawIOBase):
    """What is read of a blob, hashed."""

    def __init__(self, stream: BinaryIO, digest: str | None) -> None:
        self._stream = stream
        self._digest = digest
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._hash.update(data)
        buffer[: len(data)] = data
        return len(data)

    def finish(self) -> None:
        while self.read(_CHUNK):
            pass
        actual = f"sha256:{self._hash.hexdigest()}"
        if self._digest is not None and actual != self._digest:
            raise ImageError(f"layer {self._digest} has contents with digest {actual}")


class _Bounded:
    """Reads at most so many bytes; the decoder's own errors are ImageErrors."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    def read(self, size: int) -> bytes:
        import zstandard

        try:
            data = self._stream.read(size)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise ImageError(f"a layer cannot be unpacked: {error}") from error
        self._limit -= len(data)
        if self._limit < 0:
            raise ImageError("the layers are larger than an image may be")
        return data


def _decoded(source: _Checked) -> BinaryIO:
    """By what the first bytes are: gzip, zstd, or a tar archive as it is."""
    stream = io.BufferedReader(source, _CHUNK)
    head = stream.peek(4)
    if head.startswith(b"\x1f\x8b"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=stream))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        engine = zstandard.ZstdDecompressor()
        return cast("BinaryIO", engine.stream_reader(stream, read_across_frames=True))
    return cast("BinaryIO", stream)
