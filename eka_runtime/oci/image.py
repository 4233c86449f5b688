"""OCI images of store paths: what is in one, as data (image-spec 1.1, config, manifest, index).

    layers    store paths by groups (`image_layers.py`), as tar streams (`image_tar.py`)
    last one  what is not in the store: /bin/sh, /usr/bin/env, /etc, /tmp, a script
    config    entrypoint, variables, user, labels; no date and nothing of this host

Constraint: an image follows from its closure and what was asked for; no time, host name or user of
the machine that exports is in it. So equal requests have equal digests everywhere, as far as the
bytes of layers go; compressed ones are as equal as the compressor's version (`image_write.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from eka_runtime.errors import ShellMissing
from eka_runtime.nix.path import StorePath
from eka_runtime.oci.image_layers import Layer
from eka_runtime.oci.image_tar import TarWriter, Write, write_store_paths
from eka_runtime.oci.rootfs import RootfsEntry
from eka_runtime.oci.spec_base import canonical_json
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

CREATED = "1970-01-01T00:00:01Z"
"""As all files have it."""

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"

Compression = Literal["none", "gzip", "zstd"]
LAYER_TYPES: Mapping[Compression, str] = MappingProxyType(
    {"none": LAYER, "gzip": f"{LAYER}+gzip", "zstd": f"{LAYER}+zstd"}
)

_LAYER_EXECUTABLE, _LAYER_FILE = 0o555, 0o444


class Descriptor(NamedTuple):
    """A blob by `digest` ("sha256:…") and size in bytes, as the image-spec points at it."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = MappingProxyType({})
    platform: Mapping[str, str] = MappingProxyType({})
    artifact_type: str = ""

    def to_data(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.artifact_type:
            data["artifactType"] = self.artifact_type
        if self.annotations:
            data["annotations"] = dict(self.annotations)
        if self.platform:
            data["platform"] = dict(self.platform)
        return data


class LayerSource(NamedTuple):
    """One layer: `write(write)` gives the same bytes each time; `size` is about how many."""

    write: Callable[[Write], None]
    comment: str
    size: int


class File(NamedTuple):
    """A file that is put into the image from outside the store; `place` is absolute."""

    place: str
    data: bytes
    executable: bool


class ImageSpec(NamedTuple):
    """What an image is to be. `platform` is os, architecture and perhaps variant.

    `rootfs` and `files` make the last layer.
    """

    infos: Mapping[StorePath, PathInfo]
    layers: tuple[Layer, ...]
    entrypoint: tuple[str, ...]
    arguments: tuple[str, ...]
    env: tuple[str, ...]
    labels: Mapping[str, str]
    platform: Mapping[str, str]
    rootfs: tuple[RootfsEntry, ...] = ()
    files: tuple[File, ...] = ()
    user: str = ""
    working_directory: str = "/"


def layer_sources(store: Store, image: ImageSpec) -> list[LayerSource]:
    """In the order of the image, lowest first."""
    sources = [_of_paths(store, image, layer) for layer in image.layers]
    if image.rootfs or image.files:
        comment = "the root file system: what is not in the store"
        size = sum(len(file.data) for file in image.files)
        sources.append(LayerSource(lambda write: _write_rootfs(image, write), comment, size))
    return sources


def _of_paths(store: Store, image: ImageSpec, layer: Layer) -> LayerSource:
    def write(write: Write) -> None:
        tar = TarWriter(write)
        _write_paths(tar, store, image, layer.paths, b"")
        tar.end()

    return LayerSource(write, " ".join(path.base for path in layer.paths), layer.size)


def _write_rootfs(image: ImageSpec, write: Write) -> None:
    tar = TarWriter(write)
    _write_root(tar, image, b"")
    tar.end()


def write_whole(tar: TarWriter, store: Store, image: ImageSpec, prefix: bytes) -> None:
    """All layers as one tree below `prefix`, which ends in a slash or is empty."""
    _write_root(tar, image, prefix)
    _write_paths(tar, store, image, image.infos, prefix)


def _write_paths(
    tar: TarWriter, store: Store, image: ImageSpec, paths: Iterable[StorePath], prefix: bytes
) -> None:
    for directory in (b"nix", b"nix/store"):
        tar.directory(prefix + directory)
    nodes = ((prefix + str(path)[1:].encode(), image.infos[path].node) for path in sorted(paths))
    write_store_paths(tar, nodes, store.blobs, store.directories)


def _write_root(tar: TarWriter, image: ImageSpec, prefix: bytes) -> None:
    for entry in image.rootfs:
        name = prefix + entry.path.encode("utf-8", "surrogateescape")
        if entry.kind == "directory":
            tar.directory(name, entry.mode)
        elif entry.kind == "symlink":
            tar.symlink(name, entry.text.encode("utf-8", "surrogateescape"))
        elif entry.kind == "file":
            tar.file(name, entry.mode, entry.text.encode())
        else:
            tar.file(name, entry.mode, _host_file(entry.text))
    for file in sorted(image.files):
        mode = _LAYER_EXECUTABLE if file.executable else _LAYER_FILE
        name = prefix + file.place[1:].encode("utf-8", "surrogateescape")
        tar.directory(name.rpartition(b"/")[0])
        tar.file(name, mode, file.data)


def _host_file(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise ShellMissing(
            f"`{path}` is not there any more: {error.strerror}", hint="choose another static shell"
        ) from error


def config_json(image: ImageSpec, diff_ids: Iterable[str], comments: Iterable[str]) -> bytes:
    """`diff_ids` are the digests of the uncompressed layers ("sha256:…")."""
    config: dict[str, Any] = {
        "Env": list(image.env),
        "Labels": dict(image.labels),
        "WorkingDir": image.working_directory,
    }
    if image.entrypoint:
        config["Entrypoint"] = list(image.entrypoint)
    if image.arguments:
        config["Cmd"] = list(image.arguments)
    if image.user:
        config["User"] = image.user
    history = [
        {"comment": _short(comment), "created": CREATED, "created_by": "eka export"}
        for comment in comments
    ]
    return canonical_json(
        {
            **image.platform,
            "config": config,
            "created": CREATED,
            "history": history,
            "rootfs": {"diff_ids": list(diff_ids), "type": "layers"},
        }
    )


def _short(comment: str) -> str:
    return comment if len(comment) <= 400 else f"{comment[:397]}..."


def manifest_json(
    config: Descriptor, layers: Iterable[Descriptor], annotations: Mapping[str, str]
) -> bytes:
    data: dict[str, Any] = {
        "config": config.to_data(),
        "layers": [layer.to_data() for layer in layers],
        "mediaType": MANIFEST,
        "schemaVersion": 2,
    }
    if annotations:
        data["annotations"] = dict(annotations)
    return canonical_json(data)


def artifact_json(
    artifact_type: str, empty: Descriptor, content: Descriptor, subject: Descriptor
) -> bytes:
    """A manifest of something about another manifest; its config is the empty descriptor."""
    return canonical_json(
        {
            "artifactType": artifact_type,
            "config": empty.to_data(),
            "layers": [content.to_data()],
            "mediaType": MANIFEST,
            "schemaVersion": 2,
            "subject": subject.to_data(),
        }
    )


def index_json(manifests: Iterable[Descriptor]) -> bytes:
    """An image index; also what stands as index.json in a layout."""
    data = [manifest.to_data() for manifest in manifests]
    return canonical_json({"manifests": data, "mediaType": INDEX, "schemaVersion": 2})


def descriptor_of(media_type: str, data: bytes, **more: Any) -> Descriptor:
    return Descriptor(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), **more)
