"""Writes images: layers once through a hash, into whatever holds blobs.

    oci layout        OUT/oci-layout, OUT/index.json, OUT/blobs/sha256/<hex>
    oci archive       the same as one tar file
    docker archive    <hex>.tar for each layer, <hex>.json, manifest.json

Nothing is staged: a layer is rendered from the store into its place. In an archive its name and
size stand before it, though both are known only at its end; so where the output can be rewound the
header is written twice, and where it cannot (a pipe) the layer is rendered twice, the first time
for its digest alone. Constraint: memory does not grow with the image.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from eka_runtime.castore.hashing import StreamHash
from eka_runtime.errors import StoreAccessError, StoreCorrupt, UsageError
from eka_runtime.oci.image import (
    CONFIG,
    INDEX,
    LAYER_TYPES,
    MANIFEST,
    REF_NAME,
    Compression,
    Descriptor,
    ImageSpec,
    LayerSource,
    config_json,
    descriptor_of,
    index_json,
    layer_sources,
    manifest_json,
)
from eka_runtime.oci.image_tar import TarWriter, Write, header_of
from eka_runtime.store.store import Store

Produce = Callable[[Write], None]
Progress = Callable[[int, int], None]
"""Layers and bytes so far."""

GZIP_LEVEL = 6
ZSTD_LEVEL = 3

_PIECE = 1 << 18
_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}\n'


class Blob(NamedTuple):
    """`digest` is "sha256:<hex>"."""

    digest: str
    size: int

    @property
    def hex(self) -> str:
        return self.digest.partition(":")[2]


class Written(NamedTuple):
    """An image that is complete in a sink."""

    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]


class Sink(Protocol):
    """Holds blobs. What it was given twice it keeps once."""

    def add(self, produce: Produce) -> Blob:
        """`produce` may be called twice, and must write the same both times."""

    def add_bytes(self, descriptor: Descriptor, data: bytes) -> None: ...

    def finish(self, images: Sequence[Written], name: str) -> Descriptor:
        """Makes the images findable under a name; several are one for different platforms."""


def write_image(
    store: Store,
    image: ImageSpec,
    sink: Sink,
    compression: Compression,
    progress: Progress = lambda layers, size: None,
) -> Written:
    """Raises StoreCorrupt for a damaged store, and what the sink raises."""
    layers: list[Descriptor] = []
    diff_ids: list[str] = []
    sources = layer_sources(store, image)
    done = 0
    for source in sources:
        diff_id, blob = _add_layer(sink, source, compression)
        diff_ids.append(diff_id)
        layers.append(Descriptor(LAYER_TYPES[compression], *blob))
        progress(len(layers), done := done + source.size)
    data = config_json(image, diff_ids, [source.comment for source in sources])
    config = descriptor_of(CONFIG, data)
    sink.add_bytes(config, data)
    data = manifest_json(config, layers, {})
    manifest = descriptor_of(MANIFEST, data, platform=image.platform)
    sink.add_bytes(manifest, data)
    return Written(manifest, config, tuple(layers), tuple(diff_ids))


def _add_layer(sink: Sink, source: LayerSource, compression: Compression) -> tuple[str, Blob]:
    if compression == "none":
        blob = sink.add(source.write)
        return blob.digest, blob
    found: list[str] = []

    def produce(write: Write) -> None:
        with _compressor(compression, write) as compress:
            found.append(hashed(source.write, compress).digest)

    blob = sink.add(produce)
    return found[-1], blob


@contextmanager
def _compressor(compression: Compression, write: Write) -> Iterator[Write]:
    engine: Any
    if compression == "zstd":
        import zstandard

        engine = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compressobj()
    else:
        import zlib

        # As gzip(1) -n does it: no name, no time.
        engine = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    yield lambda data: write(engine.compress(data))
    write(engine.flush())


def hashed(produce: Produce, write: Write) -> Blob:
    """Passes on what `produce` writes, in large pieces, and says what it was."""
    parts: list[bytes] = []
    waiting = 0
    with StreamHash() as hashing:

        def pass_on(data: bytes) -> None:
            hashing.update(data)
            write(data)

        def collect(data: bytes) -> None:
            nonlocal waiting
            parts.append(data)
            waiting += len(data)
            if waiting >= _PIECE:
                pass_on(parts[0] if len(parts) == 1 else b"".join(parts))
                parts.clear()
                waiting = 0

        produce(collect)
        if parts:
            pass_on(b"".join(parts))
        return Blob(f"sha256:{hashing.digest().hex()}", hashing.size)


class LayoutSink:
    """An OCI image layout in a directory; the caller makes it appear when all is done."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._blobs = directory / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        (directory / "oci-layout").write_bytes(_LAYOUT)

    def add(self, produce: Produce) -> Blob:
        fresh = self._blobs / ".new"
        with open(fresh, "wb", buffering=0) as stream:
            blob = hashed(produce, lambda data: write_all(stream, data))
        os.rename(fresh, self._blobs / blob.hex)
        return blob

    def add_bytes(self, descriptor: Descriptor, data: bytes) -> None:
        (self._blobs / descriptor.digest.partition(":")[2]).write_bytes(data)

    def finish(self, images: Sequence[Written], name: str) -> Descriptor:
        top = add_index(self, images)
        named = top._replace(annotations={REF_NAME: name})
        (self._directory / "index.json").write_bytes(index_json([named]))
        return top


class ArchiveSink:
    """An OCI layout as a tar stream; `stream` may be a pipe."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._tar = TarWriter(lambda data: write_all(stream, data))
        self._rewinds = _rewinds(stream)
        self._present: set[str] = set()
        self._start()

    def _start(self) -> None:
        self._tar.file(b"oci-layout", 0o644, _LAYOUT)
        self._tar.directory(b"blobs")
        self._tar.directory(b"blobs/sha256")

    @staticmethod
    def _name(blob: Blob) -> bytes:
        return f"blobs/sha256/{blob.hex}".encode()

    def add(self, produce: Produce) -> Blob:
        if self._rewinds:
            return self._add_rewinding(produce)
        blob = hashed(produce, lambda data: None)
        if blob.digest not in self._present:
            self._tar.begin_file(self._name(blob), 0o644, blob.size)
            if hashed(produce, self._tar.put) != blob:
                raise StoreCorrupt("a layer changed while it was written")
            self._tar.end_file(blob.size)
            self._present.add(blob.digest)
        return blob

    def _add_rewinding(self, produce: Produce) -> Blob:
        start = self._stream.tell()
        head = header_of(self._name(Blob("sha256:" + "0" * 64, 0)), 0o644, 0)
        self._tar.put(head)
        blob = hashed(produce, self._tar.put)
        final = header_of(self._name(blob), 0o644, blob.size)
        if blob.digest in self._present or len(final) != len(head):
            # There already, or of more than 8 GiB, whose header is longer.
            self._stream.seek(start)
            self._stream.truncate()
            if blob.digest in self._present:
                return blob
            self._tar.put(final)
            hashed(produce, self._tar.put)
        else:
            end = self._stream.tell()
            self._stream.seek(start)
            write_all(self._stream, final)
            self._stream.seek(end)
        self._tar.end_file(blob.size)
        self._present.add(blob.digest)
        return blob

    def add_bytes(self, descriptor: Descriptor, data: bytes) -> None:
        if descriptor.digest not in self._present:
            self._tar.file(self._name(Blob(descriptor.digest, len(data))), 0o644, data)
            self._present.add(descriptor.digest)

    def finish(self, images: Sequence[Written], name: str) -> Descriptor:
        top = add_index(self, images)
        named = top._replace(annotations={REF_NAME: name})
        self._tar.file(b"index.json", 0o644, index_json([named]))
        self._tar.end()
        return top


class DockerSink(ArchiveSink):
    """What `docker load` reads: one image, layers not compressed."""

    def _start(self) -> None:
        pass

    @staticmethod
    def _name(blob: Blob) -> bytes:
        return f"{blob.hex}.tar".encode()

    def add_bytes(self, descriptor: Descriptor, data: bytes) -> None:
        # The format has no manifests.
        if descriptor.media_type == CONFIG:
            self._tar.file(f"{descriptor.digest.partition(':')[2]}.json".encode(), 0o644, data)

    def finish(self, images: Sequence[Written], name: str) -> Descriptor:
        if len(images) != 1:
            raise UsageError(
                "a docker archive has one platform", hint="use `--format oci-archive` for several"
            )
        [image] = images
        hexes = [layer.digest.partition(":")[2] for layer in image.layers]
        entry = {
            "Config": f"{image.config.digest.partition(':')[2]}.json",
            "Layers": [f"{digits}.tar" for digits in hexes],
            # docker takes a host that is named for a registry.
            "RepoTags": [name.removeprefix("localhost/")],
        }
        data = json.dumps([entry], sort_keys=True).encode()
        self._tar.file(b"manifest.json", 0o644, data)
        self._tar.end()
        return image.manifest


def add_index(sink: Sink, images: Sequence[Written]) -> Descriptor:
    """The image itself, or an index of several, which is added."""
    manifests = [image.manifest for image in images]
    if len(manifests) == 1:
        return manifests[0]
    platforms = [json.dumps(dict(one.platform), sort_keys=True) for one in manifests]
    if len(set(platforms)) < len(platforms):
        raise UsageError(
            "two of the images are for the same platform",
            hint="say what each is for, as in `--platform linux/arm64=TARGET`",
        )
    data = index_json(manifests)
    top = descriptor_of(INDEX, data)
    sink.add_bytes(top, data)
    return top


def write_all(stream: BinaryIO, data: bytes) -> None:
    """A raw stream may take less than it is given. Raises StoreAccessError, BrokenPipeError."""
    view = memoryview(data)
    try:
        while view:
            view = view[stream.write(view) or 0 :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StoreAccessError(
            f"cannot write the image: {error.strerror}", hint="make room, or write it elsewhere"
        ) from error


def _rewinds(stream: BinaryIO) -> bool:
    if not stream.seekable():
        return False
    try:
        # What is opened to append writes at the end, wherever one goes.
        return not fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_APPEND
    except io.UnsupportedOperation:
        return True
