"""Carries out `eka export`: opens the store, resolves targets, and hands on to those who write."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from eka.contained import contained_bundle, fill_bundle, write_rootfs
from eka.context import Context
from eka.export_files import fresh_directory, fresh_stream
from eka.export_images import image_specs, push, write_archive, write_layout
from eka.export_plan import show_plan
from eka.export_session import Request, Session
from eka.exporting import Export, resolve
from eka.fetching import Reach
from eka.single_file import template, write_single_file
from eka_runtime.errors import UsageError
from eka_runtime.oci.image_platform import parse_platform
from eka_runtime.oci.image_root import RootUser
from eka_runtime.store.store import Store

_IMAGES = ("oci-archive", "oci-dir", "docker-archive")


def export(context: Context, request: Request, *, plan: bool = False) -> None:
    _check(request, plan)
    settings = context.settings()
    with Store.open(settings.store) as store:
        reach = Reach(store, settings, context.output, offline=context.offline)
        reach.choices = request.choices

        def resolved(target: str, arguments: tuple[str, ...] = ()) -> Export:
            return resolve(target, request.flags, reach, settings, arguments, shell=request.shell)

        made = resolved(request.target, request.arguments)
        others: list[Export] = []
        for text in request.platforms:
            platform, equals, target = text.partition("=")
            named = parse_platform(platform)
            if equals:
                others.append(resolved(target, request.arguments)._replace(platform=named))
            else:
                made = made._replace(platform=named)
        beside = tuple((target, resolved(target).infos) for target in request.share_with)
        output = context.output
        session = Session(store, settings, reach, output, request, made, tuple(others), beside)
        if plan:
            show_plan(session)
        else:
            _write(session)


def _check(request: Request, plan: bool) -> None:
    if request.output is None and not plan and not request.push:
        raise UsageError("no place to write to", hint="give one with `-o OUT`, or `--plan`")
    if request.flags.profile is not None:
        raise UsageError("`--profile` is for runs and `eka bundle create`, not for exports")
    if request.push and request.output is not None:
        raise UsageError("`--push` writes to a registry: there is no `-o` beside it")
    image = request.push or request.form in _IMAGES
    stated = (("--sbom", request.sbom), ("--provenance", request.provenance))
    for option, value in (*stated, ("--attach", request.attach and not request.push)):
        if value and (option == "--attach" or not image):
            raise UsageError(
                f"`{option}` belongs to {'`--push`' if option == '--attach' else 'images'}"
            )


def _write(session: Session) -> None:
    tell(session)
    if session.request.push:
        push(session)
        return
    forms: Mapping[str, Callable[[Session], None]] = {
        "oci-dir": write_layout,
        "oci-archive": write_archive,
        "docker-archive": write_archive,
        "rootfs": write_root,
        "bundle": write_contained,
        "single-file": write_single,
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


def write_root(session: Session) -> None:
    user = RootUser.parse(session.request.user)
    with fresh_directory(session.place()) as fresh, _paths_progress(session) as update:
        write_rootfs(session.store, session.export, user, fresh, update)
    words = shlex.join((*session.export.words, *session.export.arguments))
    env = f"-e PATH={shlex.quote(session.export.path)}"
    _report_directory(session, f"podman run --rm {env} --rootfs {{}} {words}", {})


def write_contained(session: Session) -> None:
    _require_program(session)
    prepared = contained_bundle(session.export, session.settings, session.reach)
    for note in prepared.grants.notes:
        session.output.warning(note)
    with fresh_directory(session.place()) as fresh, _paths_progress(session) as update:
        fill_bundle(session.store, session.export, prepared, fresh, update)
    more = {"digest": prepared.bundle.digest()}
    _report_directory(session, f"crun run -b {{}} {session.export.name}", more)


def write_single(session: Session) -> None:
    if session.request.user != "0:0":
        raise UsageError("a single file runs as whoever starts it", hint="leave `--user` out")
    export, request = session.export, session.request
    _require_program(session)
    config = template(export, session.settings, session.reach)
    [image] = image_specs(session)
    place = str(request.output)
    with fresh_stream(place, executable=True) as stream:
        blob = write_single_file(session.store, export, image, config, stream)
    if place == "-":
        return
    if session.output.json_mode:
        data = {"output": os.path.abspath(place), "format": request.form, "digest": blob.digest}
        session.output.json(data)
    else:
        session.output.data(os.path.abspath(place))


def _require_program(session: Session) -> None:
    if not session.export.words and not session.export.arguments:
        raise UsageError(
            f"`{session.request.target}` has no program, and there is no shell",
            hint="name one of its programs, or add a package with a shell by `-p`",
        )


@contextmanager
def _paths_progress(session: Session) -> Iterator[Callable[[int, int], None]]:
    with session.output.progress("paths", len(session.export.infos)) as update:
        yield update


def _report_directory(session: Session, command: str, more: dict[str, str]) -> None:
    output, place = session.output, os.fspath(session.place().absolute())
    if output.json_mode:
        output.json({"output": place, "format": session.request.form, **more})
    else:
        output.data(place)
    output.message(f"start it: {command.format(shlex.quote(place))}")
