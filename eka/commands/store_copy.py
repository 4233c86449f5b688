"""`eka store copy`: closures from other stores and services, and to them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from eka.completing import store_paths
from eka.context import Context

if TYPE_CHECKING:
    from eka_runtime.cache.settings import CacheSettings
    from eka_runtime.nix.narinfo import NarInfo
    from eka_runtime.nix.path import StorePath
    from eka_runtime.store.addresses import Addresses
    from eka_runtime.store.composition import Services
    from eka_runtime.store.pathinfo import PathInfo
    from eka_runtime.store.store import Store

_SERVICES = "services:"
_CACHES = "caches:"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_CACHE = re.compile(r"(https?|s3|file):")
_NOTHING = "nothing to copy: all of it is there already"
_PLACES = "give a directory, the URL of a binary cache, `objectstore+URL`, or `grpc+URL`"


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=store_paths)
@click.option("--from", "source", metavar="URL", help="Copy from there into the store.")
@click.option("--to", "target", metavar="URL", help="Copy from the store to there.")
@click.option(
    "--no-check-sigs",
    "unsigned",
    is_flag=True,
    help="Believe the binary cache, whoever has signed what it has.",
)
@click.option("--refresh", is_flag=True, help="Ask the binary cache anew, whatever is remembered.")
@click.pass_obj
def copy(
    context: Context,
    paths: tuple[str, ...],
    source: str | None,
    target: str | None,
    unsigned: bool,
    refresh: bool,
) -> None:
    """Copy paths with all they refer to; what is there already is not copied again.

    URL is a binary cache of Nix (`https://HOST`, `http://HOST:PORT`, `s3://BUCKET`, `file:///DIR`),
    the directory of another store of eka's, or an address of snix's (`objectstore+s3://BUCKET`,
    `objectstore+file:///DIR`, `grpc+http://HOST:PORT`, `grpc+unix:/SOCKET`). `services:` are those
    in force, and `caches:` the binary caches in force (eka.toml, nix.conf, variables). Without
    --from and --to it is both of these.

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
        _copy_from(context, source, wanted, Taking(not unsigned, refresh))


class Taking(NamedTuple):
    """How answers of binary caches are taken."""

    signed: bool
    refresh: bool


def _copy_from(context: Context, url: str | None, wanted: list[StorePath], how: Taking) -> None:
    if url is None:
        url = _SERVICES if _addresses_in_force(context) else _CACHES
    if _is_cache(url):
        _from_caches(context, url, wanted, how)
        return
    directory = _directory(url)
    if directory is not None:
        from eka_runtime.store.store import Store

        with Store.open(directory, create=False) as other, context.open_store() as store:
            _between(context, other, store, wanted)
        return
    with context.open_store() as store, far_services(context, url) as far:
        _take_in(context, store, far, wanted)


def _from_caches(context: Context, url: str, wanted: list[StorePath], how: Taking) -> None:
    from eka.caching import describe, fetch_plan, open_caches
    from eka_runtime.cache.fetch import missing

    settings = _caches(context, url, how)
    with context.open_store() as store, open_caches(settings, context.output) as caches:
        if how.refresh:
            caches.forget_answers()
        absent = [path for path in wanted if store.paths.get(path) is None]
        plan = caches.plan(store, {path.hash: _exactly(path) for path in absent})
        for path in absent:
            if path.hash in plan.absent:
                raise missing(path, caches, plan.absent[path.hash])
        if plan.found:
            context.output.message(f"copying {describe(plan)}")
        else:
            context.output.message(_NOTHING)
        with _told(context) as each:
            fetch_plan(
                store, caches, plan, context.output, each, services=_addresses_in_force(context)
            )


def _exactly(path: StorePath) -> Callable[[NarInfo], bool]:
    return lambda info: info.path == path


def _caches(context: Context, url: str, how: Taking) -> CacheSettings:
    """Those a URL names, with the keys in force."""
    from eka.caching import caches_in_force
    from eka_runtime.errors import UsageError

    settings = caches_in_force(context.settings())
    if url != _CACHES:
        settings = settings._replace(substituters=(url,))
    if not how.signed:
        settings = settings._replace(require=False)
    if not settings.substituters:
        raise UsageError(
            "no binary caches and no far services are configured",
            hint="name a place with `--from URL`, or set `substituters` in the table [caches] or"
            " `url` in the table [services] of eka.toml",
        )
    if context.offline and not all(one.startswith("file:") for one in settings.substituters):
        raise UsageError(
            f"`--offline` forbids to use {settings}", hint="only places on this host are allowed"
        )
    return settings


def _copy_to(context: Context, url: str, wanted: list[StorePath]) -> None:
    from eka_runtime.store.copying import missing_there
    from eka_runtime.store.outgoing import copy_to

    if _is_cache(url):
        _to_cache(context, url, wanted)
        return
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


def _to_cache(context: Context, url: str, wanted: list[StorePath]) -> None:
    from eka.caching import access_of, caches_in_force
    from eka_runtime.cache.location import Location, open_files
    from eka_runtime.cache.upload import How, missing_in, prepare_cache, upload
    from eka_runtime.errors import UsageError

    if url == _CACHES:
        raise UsageError("`caches:` are for copying from", hint="name one cache with `--to URL`")
    location = Location.parse(url)
    if context.offline and not location.local:
        raise UsageError(
            f"`--offline` forbids to use {location.url}",
            hint="only places on this host are allowed",
        )
    how = How.of(location.parameters)
    files = open_files(location, access_of(caches_in_force(context.settings())))
    with context.open_store(create=False) as store, closing(files):
        infos = missing_in(files, store, wanted)
        prepare_cache(files, location.priority)
        with _watched(context, infos, f"to {files.name}") as (update, each):
            upload(store, files, infos, how, each=each, progress=update)


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
        context.output.message(_NOTHING)
    else:
        size = human_size(sum(info.nar_size for info in infos))
        context.output.message(f"copying {counted(len(infos))} ({size}) {where}")
    with _told(context) as each, context.output.progress("copying", total=len(infos)) as update:
        yield update, each


@contextmanager
def _told(context: Context) -> Iterator[Callable[[PathInfo], None]]:
    """Yields what prints a path: at once, or behind the progress that lines would tear apart."""
    late: list[PathInfo] | None = [] if sys.stdout.isatty() else None
    try:
        yield lambda info: _print(context, info) if late is None else late.append(info)
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


def _is_cache(url: str) -> bool:
    """Whether a URL names a binary cache: `file:` does unless an eka store is there."""
    if url == _CACHES:
        return True
    return bool(_CACHE.match(url)) and _directory(url) is None


def _directory(url: str) -> Path | None:
    """That of another store of eka's, None for all else."""
    from eka_runtime.errors import UsageError

    if not _SCHEME.match(url):
        if not url:
            raise UsageError("an empty URL names no place", hint=_PLACES)
        if os.path.isfile(os.path.join(url, "nix-cache-info")):
            raise UsageError(
                f"`{url}` is a binary cache, not a store",
                hint=f"write `{Path(url).absolute().as_uri()}`",
            )
        return Path(url).absolute()
    if not url.startswith("file:"):
        return None
    from eka_runtime.cache.location import Location

    directory = Location.parse(url).directory
    return directory if (directory / "format").is_file() else None


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
    from eka_runtime.store.addresses import Addresses

    if url != _SERVICES:
        return Addresses(url, url, url)
    found = _addresses_in_force(context)
    if found is None:
        raise UsageError(
            "no far services are configured",
            hint="name a place with `--from URL` or `--to URL`, or set `url` in the table"
            " [services] of eka.toml",
        )
    return found


def _addresses_in_force(context: Context) -> Addresses | None:
    from eka_runtime.store.addresses import configured

    return configured(os.environ, context.settings().services)
