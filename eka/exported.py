"""Carries out `eka export`: opens the store, resolves, plans, writes, says what to do with it.

What is written appears whole or not at all: a directory or file is made beside its place and then
renamed. Only stdout gets what is ready at once.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from eka.config import Settings
from eka.contained import contained_bundle, fill_bundle, write_rootfs
from eka.context import Context
from eka.exporting import Export, resolve
from eka.fetching import Reach
from eka.images import Reference, image_of, reference_for
from eka.output import Output, human_size, table
from eka.script.flags import Flags
from eka_runtime.errors import UsageError
from eka_runtime.nix.path import StorePath
from eka_runtime.oci.image import Compression, Descriptor, ImageSpec
from eka_runtime.oci.image_layers import MAX_LAYERS, Layer, plan_layers, sharing
from eka_runtime.oci.image_platform import parse_platform
from eka_runtime.oci.image_root import RootUser
from eka_runtime.oci.image_write import (
    ArchiveSink,
    DockerSink,
    LayoutSink,
    Sink,
    Written,
    write_image,
)
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

Closure = Mapping[StorePath, PathInfo]


class Request(NamedTuple):
    """What was typed."""

    target: str
    arguments: tuple[str, ...]
    flags: Flags
    output: str | None
    form: str
    tag: str | None
    compression: str | None
    max_layers: int | None
    share_with: tuple[str, ...]
    user: str
    labels: tuple[str, ...]
    platform: str | None
    shell: bool


class Session(NamedTuple):
    """An export with all it needs."""

    store: Store
    settings: Settings
    reach: Reach
    output: Output
    request: Request
    export: Export
    beside: tuple[tuple[str, Closure], ...]

    @property
    def maximum(self) -> int:
        asked = self.request.max_layers
        return MAX_LAYERS if asked is None else asked


def export(context: Context, request: Request, *, plan: bool = False) -> None:
    if request.output is None and not plan:
        raise UsageError("no place to write to", hint="give one with `-o OUT`, or `--plan`")
    settings = context.settings()
    with Store.open(settings.store) as store:
        reach = Reach(store, settings, context.output, offline=context.offline)

        def resolved(target: str, arguments: tuple[str, ...] = ()) -> Export:
            found = resolve(target, request.flags, reach, settings, arguments, shell=request.shell)
            if request.platform is None:
                return found
            return found._replace(platform=parse_platform(request.platform))

        made = resolved(request.target, request.arguments)
        beside = tuple((target, resolved(target).infos) for target in request.share_with)
        session = Session(store, settings, reach, context.output, request, made, beside)
        if plan:
            show_plan(session)
        else:
            write_form(session)


def write_form(session: Session) -> None:
    tell(session)
    forms: dict[str, Callable[[Session], None]] = {
        "oci-dir": write_layout,
        "oci-archive": write_archive,
        "docker-archive": write_archive,
        "rootfs": write_root,
        "bundle": write_contained,
    }
    forms[session.request.form](session)


def tell(session: Session) -> None:
    """What the target wants of a machine, which nothing that is exported can bring along."""
    wanted = session.export.wanted
    places = [(path, ":ro") for path, _ in wanted.read] + [(path, "") for path, _ in wanted.write]
    absolute = ((os.path.abspath(os.path.expanduser(path)), mode) for path, mode in places)
    words = [f"-v {shlex.quote(f'{path}:{path}{mode}')}" for path, mode in absolute]
    words += [f"-e {name}" for name in session.export.asked.get("env", ())]
    words += [f"--device {name}" for name in session.export.asked.get("devices", ())]
    if words:
        session.output.message(f"the target also asks for: {' '.join(words)}")


def image_spec(session: Session) -> ImageSpec:
    request = session.request
    labels = {}
    for text in request.labels:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"`{text}` is not a label", hint="write it as `NAME=VALUE`")
        labels[name] = value
    closures = [closure for _, closure in session.beside]
    user = RootUser.parse(request.user)
    return image_of(session.export, user, labels, session.maximum, closures)


def write_layout(session: Session) -> None:
    with fresh_directory(_place(session)) as fresh:
        sink = LayoutSink(fresh)
        top, written, name = _write_into(session, sink, "none")
    _report(session, top, written, name)


def write_archive(session: Session) -> None:
    docker = session.request.form == "docker-archive"
    if docker and session.request.compression not in (None, "none"):
        raise UsageError("a docker archive has layers that are not compressed")
    with _stream(session) as stream:
        sink = DockerSink(stream) if docker else ArchiveSink(stream)
        top, written, name = _write_into(session, sink, "none")
    _report(session, top, written, name)


def _write_into(
    session: Session, sink: Sink, default: str
) -> tuple[Descriptor, list[Written], Reference]:
    name = reference_for(session.export, session.request.tag)
    compression = cast("Compression", session.request.compression or default)
    image = image_spec(session)
    total = len(image.layers) + 1
    with session.output.progress("layers", total) as update:
        written = [write_image(session.store, image, sink, compression, update)]
    return sink.finish(written, str(name)), written, name


def _report(session: Session, top: Descriptor, images: list[Written], name: Reference) -> None:
    output, request = session.output, session.request
    size = sum(layer.size for image in images for layer in image.layers)
    layers = sum(len(image.layers) for image in images)
    place = os.path.abspath(request.output) if request.output not in (None, "-") else None
    if place and output.json_mode:
        data: dict[str, Any] = {
            "output": place,
            "format": request.form,
            "name": str(name),
            "digest": top.digest,
            "config": [image.config.digest for image in images],
            "layers": layers,
            "size": size,
        }
        output.json(data)
    elif place:
        output.data(place)
    output.message(f"{name}: {layers} layers, {human_size(size)}, {top.digest}")
    if place:
        output.message(f"start it: {_command(request.form, place, name)}")


def _command(form: str, place: str, name: Reference) -> str:
    if form == "oci-dir":
        # `podman run oci:DIR` takes DIR for part of a name, and few directories are called so.
        return f"tar -C {shlex.quote(place)} -c . | podman load && podman run --rm {name}"
    return f"podman run --rm {form}:{shlex.quote(place)}"


def write_root(session: Session) -> None:
    user = RootUser.parse(session.request.user)
    with fresh_directory(_place(session)) as fresh, _paths_progress(session) as update:
        write_rootfs(session.store, session.export, user, fresh, update)
    words = shlex.join((*session.export.words, *session.export.arguments))
    env = f"-e PATH={shlex.quote(session.export.path)}"
    _report_directory(session, f"podman run --rm {env} --rootfs {{}} {words}", {})


def write_contained(session: Session) -> None:
    prepared = contained_bundle(session.export, session.settings, session.reach)
    for note in prepared.grants.notes:
        session.output.warning(note)
    with fresh_directory(_place(session)) as fresh, _paths_progress(session) as update:
        fill_bundle(session.store, session.export, prepared, fresh, update)
    more = {"digest": prepared.bundle.digest()}
    _report_directory(session, f"crun run -b {{}} {session.export.name}", more)


@contextmanager
def _paths_progress(session: Session) -> Iterator[Callable[[int, int], None]]:
    with session.output.progress("paths", len(session.export.infos)) as update:
        yield update


def _report_directory(session: Session, command: str, more: dict[str, str]) -> None:
    output, place = session.output, os.fspath(_place(session).absolute())
    if output.json_mode:
        output.json({"output": place, "format": session.request.form, **more})
    else:
        output.data(place)
    output.message(f"start it: {command.format(shlex.quote(place))}")


def show_plan(session: Session) -> None:
    """Layers, lowest first, and for each target beside it what would be shared."""
    closures = [closure for _, closure in session.beside]
    infos = session.export.infos
    layers = plan_layers(infos, session.maximum, closures)
    output = session.output
    if output.json_mode:
        for layer in layers:
            output.json({"size": layer.size, "paths": [str(path) for path in layer.paths]})
    else:
        rows = [(human_size(layer.size), str(len(layer.paths)), _shown(layer)) for layer in layers]
        for line in table(rows, ("SIZE", "PATHS", "LAYER")):
            output.data(line)
    for number, (target, closure) in enumerate(session.beside):
        others = [infos, *(one for k, one in enumerate(closures) if k != number)]
        theirs = plan_layers(closure, session.maximum, others)
        _show_sharing(output, target, layers, theirs, infos)


def _show_sharing(
    output: Output, target: str, ours: list[Layer], theirs: list[Layer], infos: Closure
) -> None:
    sizes = {path: info.nar_size for path, info in infos.items()}
    found = sharing(ours, theirs, sizes)
    if output.json_mode:
        output.json({"with": target, "common": found.common, "shared": found.shared})
        return
    output.data(
        f"with {target}: {human_size(found.common)} in common, "
        f"{human_size(found.shared)} ({found.ratio:.0%}) in layers that both have"
    )


def _shown(layer: Layer) -> str:
    first = layer.paths[-1].base
    return first if len(layer.paths) == 1 else f"{first} and {len(layer.paths) - 1} more"


def _place(session: Session) -> Path:
    if session.request.output == "-":
        raise UsageError(f"`{session.request.form}` is a directory: it cannot go to stdout")
    return Path(cast("str", session.request.output))


@contextmanager
def fresh_directory(place: Path) -> Iterator[Path]:
    """A directory that becomes `place` at the end. Raises UsageError where something is."""
    if os.path.lexists(place) and not _is_empty(place):
        raise UsageError(
            f"`{place}` is there already and not an empty directory",
            hint="remove it, or name another",
        )
    try:
        holder = tempfile.mkdtemp(prefix=".eka-export-", dir=place.absolute().parent)
    except OSError as error:
        raise UsageError(f"cannot write `{place}`: {error.strerror}") from error
    try:
        fresh = Path(holder) / "made"
        fresh.mkdir(mode=0o755)
        yield fresh
        os.rename(fresh, place)
    finally:
        _remove(Path(holder))


def _is_empty(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink() and not any(place.iterdir())


def _remove(place: Path) -> None:
    # Directories of store paths are read-only, also for who made them.
    for directory, _, _ in os.walk(place):
        os.chmod(directory, 0o700)
    shutil.rmtree(place)


@contextmanager
def _stream(session: Session) -> Iterator[BinaryIO]:
    """The file that is asked for, which appears at the end, or stdout."""
    if session.request.output == "-":
        if sys.stdout.isatty():
            raise UsageError("an archive does not go to a terminal", hint="use `-o FILE`")
        sys.stdout.flush()
        with open(1, "wb", buffering=0, closefd=False) as stream:
            yield stream
        return
    place = Path(cast("str", session.request.output))
    if place.is_dir():
        raise UsageError(f"`{place}` is a directory", hint="name a file, or use `--format oci-dir`")
    try:
        fd, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.absolute().parent)
    except OSError as error:
        raise UsageError(f"cannot write `{place}`: {error.strerror}") from error
    try:
        with open(fd, "r+b", buffering=0) as stream:
            yield stream
        os.chmod(name, 0o666 & ~_umask())
        os.rename(name, place)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
