"""`eka store verify`: fsck for a store, and what to do about what it finds.

stdout has one line, or one JSON object, per problem; the exit status says whether any is left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eka.context import Context

if TYPE_CHECKING:
    from eka_runtime.store.copying import Source
    from eka_runtime.store.repair import Nars
    from eka_runtime.store.store import Store
    from eka_runtime.store.verify import Lost, Verified


@click.command()
@click.option("--deep", is_flag=True, help="Also hash all contents again.")
@click.option("--repair", is_flag=True, help="Get lost contents back from where they may be.")
@click.pass_obj
def verify(context: Context, deep: bool, repair: bool) -> None:
    """Check every row, reference and file; exits with 25 if anything is wrong.

    With --repair, what is lost is looked for in checkouts, far services and binary caches, and the
    status says whether anything is still wrong.
    """
    from eka.commands import storing

    if not repair:
        storing.verify(context, deep)
        return
    with context.open_store(create=False) as store:
        store.require_writable()
        _repair(context, store, storing.check(context, store, deep, context.output.message))
        result = storing.check(context, store, deep, context.output.data)
        storing.judge(
            context,
            store,
            result,
            "fetch the damaged paths from somewhere else: `eka store gc` them,"
            " then add, import or copy them again",
        )


def _repair(context: Context, store: Store, result: Verified) -> None:
    from eka.apart import run_apart
    from eka_runtime.errors import EkaError

    if not result.problems:
        return
    try:
        # Worker processes cannot be made beside the threads that talk to services.
        run_apart(lambda: _repair_apart(context, store.root, result.lost))
    except EkaError as error:
        context.output.warning(f"could not repair: {error}")


def _repair_apart(context: Context, root: Path, lost: Lost) -> None:
    from eka_runtime.store.repair import repair
    from eka_runtime.store.store import Store
    from eka_runtime.store.verify import counted

    with Store.open(root) as store, _far(context) as places, _caches(context) as nars:
        found = repair(store, lost, places, nars)
    total = len(lost.blobs) + len(lost.directories)
    context.output.message(f"got back {found} of {counted(total, 'lost item')}")


@contextmanager
def _caches(context: Context) -> Iterator[list[Nars]]:
    """The binary caches in force, whoever has signed what they have."""
    from eka.caching import caches_in_force, open_caches
    from eka_runtime.cache.fetch import CacheNars

    settings = caches_in_force(context.settings(), offline=context.offline)
    if not settings.substituters:
        yield []
        return
    with open_caches(settings._replace(require=False), context.output) as caches:
        yield [CacheNars(caches)]


@contextmanager
def _far(context: Context) -> Iterator[list[Source]]:
    """The far services in force, if there are any."""
    from eka_runtime.store.addresses import configured

    addresses = configured(os.environ, context.settings().services)
    if addresses is None or context.offline:
        yield []
        return
    from eka_runtime.store.composition import open_services

    with open_services(addresses) as services:
        yield [services]
