"""Images into a registry: the sink of `--push`. Layers are sent from the store, never staged.

A layer is rendered once for its digest, and a second time only if the registry lacks it. Manifests
go last, the one with the tag at the very end, so a push that is cut off shows nobody half an image.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Queue

from eka_runtime.errors import StoreCorrupt
from eka_runtime.oci.image import (
    EMPTY,
    INDEX,
    MANIFEST,
    Descriptor,
    artifact_json,
    descriptor_of,
)
from eka_runtime.oci.image_write import Blob, Produce, Written, add_index, hashed
from eka_runtime.oci.registry import Repository
from eka_runtime.oci.spec_base import canonical_json

_QUEUED = 8

Sent = Callable[[Blob, bool], None]
"""A layer, and whether it had to be sent."""


class RegistrySink:
    """`finish` gives the image its tag; `sent` is told of every layer."""

    def __init__(
        self, repository: Repository, tag: str, sent: Sent = lambda blob, new: None
    ) -> None:
        self._repository = repository
        self._tag = tag
        self._sent = sent
        self._manifests: dict[str, tuple[str, bytes]] = {}

    def add(self, produce: Produce) -> Blob:
        blob = hashed(produce, lambda data: None)
        new = not self._repository.has_blob(blob.digest)
        if new:
            with _Pieces(produce, blob) as pieces:
                self._repository.put_blob(blob.digest, blob.size, pieces)
        self._sent(blob, new)
        return blob

    def add_bytes(self, descriptor: Descriptor, data: bytes) -> None:
        if descriptor.media_type in (MANIFEST, INDEX):
            self._manifests[descriptor.digest] = (descriptor.media_type, data)
        elif not self._repository.has_blob(descriptor.digest):
            self._repository.put_blob(descriptor.digest, descriptor.size, data)

    def finish(self, images: Sequence[Written], name: str) -> Descriptor:
        top = add_index(self, images)
        media_type, data = self._manifests.pop(top.digest)
        for digest, (kind, content) in self._manifests.items():
            self._repository.put_manifest(digest, kind, content)
        self._repository.put_manifest(self._tag, media_type, data)
        return top


def attach(repository: Repository, subject: Descriptor, media_type: str, data: bytes) -> Descriptor:
    """Sends a document as a referrer of `subject`; one of the same kind is replaced.

    Where the registry has no referrers API, the tag schema of the distribution-spec takes its
    place.
    """
    bare = Descriptor(subject.media_type, subject.digest, subject.size)
    content = descriptor_of(media_type, data)
    empty = descriptor_of(EMPTY, b"{}")
    for blob, body in ((content, data), (empty, b"{}")):
        if not repository.has_blob(blob.digest):
            repository.put_blob(blob.digest, blob.size, body)
    manifest = artifact_json(media_type, empty, content, bare)
    made = descriptor_of(MANIFEST, manifest, artifact_type=media_type)
    headers = repository.put_manifest(made.digest, MANIFEST, manifest)
    if "OCI-Subject" not in headers:
        _tag_referrer(repository, bare, made)
    return made


def _tag_referrer(repository: Repository, subject: Descriptor, made: Descriptor) -> None:
    tag = subject.digest.replace(":", "-")
    present = repository.get_manifest(tag, INDEX)
    try:
        stated = json.loads(present)["manifests"] if present else []
        others = [one for one in stated if one.get("artifactType") != made.artifact_type]
    except (ValueError, KeyError, TypeError, AttributeError):
        others = []
    data = {"manifests": [*others, made.to_data()], "mediaType": INDEX, "schemaVersion": 2}
    repository.put_manifest(tag, INDEX, canonical_json(data))


class _Pieces:
    """What `produce` writes, for one who wants to read: it runs in a thread of its own."""

    def __init__(self, produce: Produce, expected: Blob) -> None:
        self._produce = produce
        self._expected = expected
        self._queue: Queue[bytes | BaseException | None] = Queue(_QUEUED)
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eka-layer")

    def __enter__(self) -> _Pieces:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        # It may wait for room; after that it sees that nobody reads any more.
        self._gone.set()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join()

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._queue.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def _run(self) -> None:
        try:
            if hashed(self._produce, self._put) != self._expected:
                raise StoreCorrupt("a layer changed while it was sent")
            self._queue.put(None)
        except _Unwanted:
            pass
        except BaseException as error:
            self._queue.put(error)

    def _put(self, data: bytes) -> None:
        if self._gone.is_set():
            raise _Unwanted
        self._queue.put(data)


class _Unwanted(Exception):
    """Nobody reads any more."""
