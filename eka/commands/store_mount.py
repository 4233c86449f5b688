"""`eka store mount`: the whole store as a directory, read-only, as long as the command runs.

Root mounts for everybody. Others need fusermount3, which mounts for them; without it a mount is
possible in a namespace of one's own only, as a bundle is: that is what `--view fuse` is for.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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
@click.option("--from", "source", metavar="URL", help="Show what is there, too; fetched when read.")
@click.pass_obj
def mount(context: Context, target: Path, source: str | None) -> None:
    """Show all paths of the store in DIR until Ctrl-C; DIR is printed when it can be used.

    Every file is verified before it can be read.
    """
    place = _place(target)
    with context.open_store(create=source is not None) as store:
        _serve_for_all(context, store, source, place)


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
