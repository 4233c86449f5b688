"""Writes an export as an image, to a file or into a registry, with its SBOM and provenance."""

from __future__ import annotations

import os
import shlex
from typing import Any, NamedTuple, cast

from eka.export_files import fresh_directory, fresh_stream
from eka.export_session import Session
from eka.images import Reference, image_of, reference_for
from eka.output import human_size
from eka.version import __version__
from eka_runtime.errors import UsageError
from eka_runtime.oci.image import Compression, Descriptor, ImageSpec
from eka_runtime.oci.image_facts import IN_TOTO, SPDX, provenance_json, spdx_json
from eka_runtime.oci.image_push import RegistrySink, attach
from eka_runtime.oci.image_root import RootUser
from eka_runtime.oci.image_write import (
    ArchiveSink,
    Blob,
    DockerSink,
    LayoutSink,
    Progress,
    Sink,
    Written,
    write_image,
)
from eka_runtime.oci.registry import Repository, find_credentials

_TOOL = f"eka-{__version__}"


class Made(NamedTuple):
    name: Reference
    top: Descriptor
    images: tuple[Written, ...]

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        return tuple(layer for image in self.images for layer in image.layers)


def write_layout(session: Session) -> None:
    with fresh_directory(session.place()) as fresh:
        made = _write_into(session, LayoutSink(fresh), "none")
    _finish(session, made)


def write_archive(session: Session) -> None:
    docker = session.request.form == "docker-archive"
    if docker and session.request.compression not in (None, "none"):
        raise UsageError("a docker archive has layers that are not compressed")
    with fresh_stream(str(session.request.output)) as stream:
        sink = DockerSink(stream) if docker else ArchiveSink(stream)
        made = _write_into(session, sink, "none")
    _finish(session, made)


def push(session: Session) -> None:
    """Raises ServiceError when the registry does not take it."""
    request, name = session.request, reference_for(session.export, session.request.tag)
    if request.tag is None:
        raise UsageError("no name to push to", hint="give one: `--tag HOST/REPOSITORY[:TAG]`")
    credentials = find_credentials(name.host, os.environ)
    repository = Repository(name.host, name.repository, credentials, plain=request.plain_http)
    sent = {True: 0, False: 0}

    def count(blob: Blob, new: bool) -> None:
        sent[new] += blob.size

    try:
        made = _write_into(session, RegistrySink(repository, name.tag, count), "zstd")
        if request.attach:
            for media_type, data in _facts(session, made).values():
                attach(repository, made.top, media_type, data)
    finally:
        repository.close()
    session.output.message(
        f"sent {human_size(sent[True])}; the registry had {human_size(sent[False])}"
    )
    _finish(session, made)


def _write_into(session: Session, sink: Sink, default: str) -> Made:
    name = reference_for(session.export, session.request.tag)
    compression = cast("Compression", session.request.compression or default)
    images = image_specs(session)
    total = sum(len(image.layers) + 1 for image in images)
    with session.output.progress("layers", total) as update:
        written: list[Written] = []
        layers = size = 0
        for image in images:
            first = _from(layers, size, update)
            written.append(write_image(session.store, image, sink, compression, first))
            layers += len(image.layers) + 1
            size += sum(layer.size for layer in image.layers)
    return Made(name, sink.finish(written, str(name)), tuple(written))


def _from(done: int, bytes_done: int, update: Progress) -> Progress:
    return lambda layers, size: update(done + layers, bytes_done + size)


def image_specs(session: Session) -> list[ImageSpec]:
    """The target's image, then those for other platforms. Raises UsageError."""
    request = session.request
    labels = {}
    for text in request.labels:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"`{text}` is not a label", hint="write it as `NAME=VALUE`")
        labels[name] = value
    closures = [closure for _, closure in session.beside]
    user = RootUser.parse(request.user)
    return [
        image_of(export, user, labels, session.maximum, closures)
        for export in (session.export, *session.others)
    ]


def _facts(session: Session, made: Made) -> dict[str, tuple[str, bytes]]:
    """SBOM and provenance of all platforms together, with their media types."""
    exports = (session.export, *session.others)
    infos = {path: info for export in exports for path, info in export.infos.items()}
    roots = dict.fromkeys(path for export in exports for path in export.packages)
    name = f"{session.export.name}-{session.export.version}"
    sbom = spdx_json(infos, roots, name, made.top.digest, _TOOL)
    request = session.request
    parameters = {
        "arguments": list(request.arguments),
        "format": request.form,
        "labels": list(request.labels),
        "packages": [str(path) for path in roots],
        "user": request.user,
    }
    subject = {str(made.name): made.top.digest}
    provenance = provenance_json(infos, parameters, subject, _TOOL)
    return {"sbom": (SPDX, sbom), "provenance": (IN_TOTO, provenance)}


def _finish(session: Session, made: Made) -> None:
    request = session.request
    wanted = {"sbom": request.sbom, "provenance": request.provenance}
    if any(wanted.values()):
        for kind, (_, data) in _facts(session, made).items():
            if place := wanted[kind]:
                with fresh_stream(place) as stream:
                    stream.write(data)
    _report(session, made)


def _report(session: Session, made: Made) -> None:
    output, request = session.output, session.request
    place = os.path.abspath(request.output) if request.output not in (None, "-") else None
    size = sum(layer.size for layer in made.layers)
    if output.json_mode and request.output != "-":
        data: dict[str, Any] = {
            "output": place,
            "format": "registry" if place is None else request.form,
            "name": str(made.name),
            "digest": made.top.digest,
            "config": [image.config.digest for image in made.images],
            "layers": len(made.layers),
            "size": size,
        }
        output.json(data)
    elif place:
        output.data(place)
    elif request.push:
        output.data(f"{made.name.host}/{made.name.repository}@{made.top.digest}")
    output.message(f"{made.name}: {len(made.layers)} layers, {human_size(size)}, {made.top.digest}")
    if place:
        output.message(f"start it: {_command(request.form, place, made.name)}")


def _command(form: str, place: str, name: Reference) -> str:
    if form == "oci-dir":
        # `podman run oci:DIR` takes DIR for part of a name, and few directories are called so.
        return f"tar -C {shlex.quote(place)} -c . | podman load && podman run --rm {name}"
    if form == "docker-archive":
        familiar = str(name).removeprefix("localhost/")
        return f"docker load -i {shlex.quote(place)} && docker run --rm {familiar}"
    return f"podman run --rm {form}:{shlex.quote(place)}"
