"""`eka store mount`: the whole store as a directory, read-only, as long as the command runs.

Root mounts for everybody. Others need fusermount3, which mounts for them; without it a mount is
possible in a namespace of one's own only, so there a command has to be started that sees it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from eka.commands.store_copy import far_services
from eka.context import Context

if TYPE_CHECKING:
    from eka_runtime.store.store import Store
    from eka_runtime.view.castore_fs import Sources

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Ended(Exception):
    """Raised by signals, in whatever the serving thread is doing."""


@click.command()
@click.argument("target", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("command", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--from", "source", metavar="URL", help="Show what is there, too; fetched when read.")
@click.pass_obj
def mount(context: Context, target: Path, command: tuple[str, ...], source: str | None) -> None:
    """Show all paths of the store in DIR until Ctrl-C; DIR is printed when it can be used.

    Every file is verified before it can be read. With COMMAND only that one, and what it starts,
    sees the mount, which ends with it; no rights are needed for that.
    """
    place = _place(target)
    with context.open_store(create=source is not None) as store:
        if not command:
            _serve_for_all(context, store, source, place)
            return
    _run_inside(context, source, place, command)


def _place(target: Path) -> str:
    from eka_runtime.errors import UsageError

    place = os.path.realpath(target)
    if not os.path.isdir(place):
        raise UsageError(
            f"`{target}` is not a directory", hint=f"make it first: `mkdir -p {target}`"
        )
    return place


def _serve_for_all(context: Context, store: Store, source: str | None, place: str) -> None:
    from eka_runtime.linux.fuse_mount import mounted

    with _signals_end(), mounted(place) as device:
        _serve(context, store, source, device, lambda: _announce(context, place))


@contextmanager
def _signals_end() -> Iterator[None]:
    """The first signal ends the block in good order; a second one ends the process at once."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def end(number: int, frame: object) -> None:
        for other, handler in before.items():
            signal.signal(other, handler)
        raise _Ended

    try:
        for number in _SIGNALS:
            if before[number] != signal.SIG_IGN:
                signal.signal(number, end)
        yield
    except _Ended:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announce(context: Context, place: str) -> None:
    if context.json:
        context.output.json({"mount": place})
    else:
        context.output.data(place)
    sys.stdout.flush()


def _serve(
    context: Context, store: Store, source: str | None, device: int, ready: Callable[[], object]
) -> None:
    """Until it is unmounted; `ready` is called when nothing can go wrong any more."""
    from eka_runtime.linux.fuse import Session
    from eka_runtime.view.castore_fs import CastoreFs

    with _sources(context, store, source) as sources:
        ready()
        Session(device, CastoreFs(sources, context.output.warning)).serve()


@contextmanager
def _sources(context: Context, store: Store, source: str | None) -> Iterator[Sources]:
    from eka_runtime.view.castore_fs import AllPaths, Sources

    if source is None:
        yield Sources(AllPaths(store.paths), store.blobs, store.directories, local=True)
        return
    from eka_runtime.castore.layered import LayeredBlobs, LayeredDirectories
    from eka_runtime.store.local_services import LocalServices
    from eka_runtime.view.either_paths import EitherPaths

    store.require_writable()
    near = LocalServices.of(store)
    with far_services(context, source) as far:
        yield Sources(
            AllPaths(EitherPaths(near.paths, far.paths)),
            LayeredBlobs(near.blobs, far.blobs),
            LayeredDirectories(near.directories, far.directories),
            local=False,
        )


def _run_inside(
    context: Context, source: str | None, place: str, command: tuple[str, ...]
) -> NoReturn:
    """Becomes the command; the server is a child that the kernel kills when the command ends."""
    from eka_runtime.linux.fuse_mount import mount_device, open_device
    from eka_runtime.linux.syscalls import die_with_parent

    _enter_namespace()
    device = open_device()
    mount_device(device, place)
    parent = os.getpid()
    reading, writing = os.pipe()
    server = os.fork()
    if server == 0:
        os.setsid()  # the terminal's signals are for the command
        die_with_parent()
        if os.getppid() == parent:
            with context.open_store() as store:
                _serve(context, store, source, device, lambda: os.write(writing, b"+"))
        sys.exit()
    os.close(writing)
    os.close(device)
    if not os.read(reading, 1):
        # It has said why.
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(server, 0)[1]))
    _execute(command)


def _enter_namespace() -> None:
    """A mount namespace; and a user namespace, without which only root gets one."""
    from eka_runtime.errors import UsernsForbidden
    from eka_runtime.linux.mounts import leave_shared_mounts
    from eka_runtime.linux.syscalls import CLONE_NEWNS, unshare
    from eka_runtime.linux.userns import enter_user_namespace

    try:
        if os.geteuid() == 0:
            unshare(CLONE_NEWNS)
            leave_shared_mounts()
        else:
            enter_user_namespace(CLONE_NEWNS, as_root=False)
    except OSError as error:
        raise UsernsForbidden(
            f"this host allows no namespace of one's own: {error}",
            hint="`eka doctor` says what would lift that",
        ) from error


def _execute(command: tuple[str, ...]) -> NoReturn:
    from eka_runtime.errors import InterpreterNotFound, NotExecutable

    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # every Python ignores these
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise InterpreterNotFound(f"there is no program `{command[0]}`") from None
    except OSError as error:
        raise NotExecutable(f"cannot start `{command[0]}`: {error.strerror}") from error
