"""`eka store copy`: closures from other stores and services, and to them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import click

from eka.completing import store_paths
from eka.context import Context

if TYPE_CHECKING:
    from eka_runtime.nix.path import StorePath
    from eka_runtime.store.addresses import Addresses
    from eka_runtime.store.composition import Services
    from eka_runtime.store.pathinfo import PathInfo
    from eka_runtime.store.store import Store

_CONFIGURED = "services:"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PLACES = "give a directory, `file:///DIR`, `objectstore+URL`, `grpc+URL`, or `services:`"


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=store_paths)
@click.option("--from", "source", metavar="URL", help="Copy from there into the store.")
@click.option("--to", "target", metavar="URL", help="Copy from the store to there.")
@click.pass_obj
def copy(context: Context, paths: tuple[str, ...], source: str | None, target: str | None) -> None:
    """Copy paths with all they refer to; what is there already is not copied again.

    URL is another store's directory, `objectstore+file:///DIR`, `objectstore+s3://BUCKET/PREFIX`,
    `grpc+http://HOST:PORT`, `grpc+unix:/SOCKET`, or `services:` for those in force
    (BLOB_SERVICE_ADDR and its like, or `[services]` of eka.toml). Without --from and --to it is
    `--from services:`.

    Each path is printed when it is valid at its destination.
    """
    from eka.commands.store_arguments import store_path
    from eka_runtime.errors import UsageError

    if source is not None and target is not None:
        raise UsageError(
            "`--from` and `--to` name the other side of the store, so there can be one of them",
            hint="copy in two steps, or name the store with `--store DIR`",
        )
    wanted = [store_path(path) for path in paths]
    if target is not None:
        _copy_to(context, target, wanted)
    else:
        _copy_from(context, _CONFIGURED if source is None else source, wanted)


def _copy_from(context: Context, url: str, wanted: list[StorePath]) -> None:
    directory = _directory(url)
    if directory is not None:
        from eka_runtime.store.store import Store

        with Store.open(directory, create=False) as other, context.open_store() as store:
            _between(context, other, store, wanted)
        return
    with context.open_store() as store, far_services(context, url) as far:
        _take_in(context, store, far, wanted)


def _copy_to(context: Context, url: str, wanted: list[StorePath]) -> None:
    from eka_runtime.store.copying import missing_there
    from eka_runtime.store.outgoing import copy_to

    directory = _directory(url)
    if directory is not None:
        from eka_runtime.store.store import Store

        with context.open_store(create=False) as store:
            found = [store.info(path).path for path in wanted]
            with Store.open(directory) as other:
                _between(context, store, other, found)
        return
    with context.open_store(create=False) as store, far_services(context, url) as far:
        infos = missing_there(store, far, wanted)
        with _watched(context, infos, f"to {far.name}") as (update, each):
            copy_to(store, far, infos, each=each, progress=update)


def _between(context: Context, source: Store, target: Store, wanted: list[StorePath]) -> None:
    from eka_runtime.store.composition import services_of

    _take_in(context, target, services_of(source), wanted)


def _take_in(context: Context, store: Store, far: Services, wanted: list[StorePath]) -> None:
    from eka_runtime.store.copying import missing_here
    from eka_runtime.store.incoming import copy_from

    infos = missing_here(store, far, wanted)
    with _watched(context, infos, f"from {far.name}") as (update, each):
        copy_from(store, far, infos, each=each, progress=update)


@contextmanager
def _watched(
    context: Context, infos: list[PathInfo], where: str
) -> Iterator[tuple[Callable[[int, int], None], Callable[[PathInfo], None]]]:
    """Says what is going to happen, then yields what draws progress and what prints a path."""
    from eka.fetching import counted
    from eka.output import human_size

    if not infos:
        context.output.message("nothing to copy: all of it is there already")
    else:
        size = human_size(sum(info.nar_size for info in infos))
        context.output.message(f"copying {counted(len(infos))} ({size}) {where}")
    # Lines on the terminal that shows the progress would tear it apart: they come after it.
    late: list[PathInfo] | None = [] if sys.stdout.isatty() else None
    try:
        with context.output.progress("copying", total=len(infos)) as update:
            yield update, lambda info: _print(context, info) if late is None else late.append(info)
    finally:
        for info in late or ():
            _print(context, info)


def _print(context: Context, info: PathInfo) -> None:
    if context.json:
        context.output.json({"path": str(info.path)})
    else:
        context.output.data(str(info.path))
    # The path is valid from now on, whatever becomes of the rest: whoever reads must learn of it.
    sys.stdout.flush()


def _directory(url: str) -> Path | None:
    """That of another store of eka's, None for services."""
    from eka_runtime.errors import UsageError

    if not _SCHEME.match(url):
        if not url:
            raise UsageError("an empty URL names no place", hint=_PLACES)
        return Path(url).absolute()
    if not url.startswith("file:"):
        return None
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query:
        raise UsageError(f"`{url}` does not name a directory", hint="write `file:///DIR`")
    return Path(unquote(parts.path))


@contextmanager
def far_services(context: Context, url: str) -> Iterator[Services]:
    """What a URL names that is no directory. Raises UsageError, and as `open_services`."""
    from eka_runtime.errors import UsageError
    from eka_runtime.store.composition import open_services

    addresses = _addresses(context, url)
    if context.offline and not addresses.local:
        raise UsageError(
            f"`--offline` forbids to use {addresses}", hint="only places on this host are allowed"
        )
    with open_services(addresses) as services:
        yield services


def _addresses(context: Context, url: str) -> Addresses:
    from eka_runtime.errors import UsageError
    from eka_runtime.store.addresses import Addresses, configured

    if url != _CONFIGURED:
        return Addresses(url, url, url)
    found = configured(os.environ, context.settings().services)
    if found is None:
        raise UsageError(
            "no far services are configured",
            hint="name a place with `--from URL` or `--to URL`, or set `url` in the table"
            " [services] of eka.toml",
        )
    return found
