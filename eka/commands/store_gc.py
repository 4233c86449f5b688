"""`eka store gc` and `eka store root`: what goes, and what stays.

stdout carries the number of bytes freed, or the roots; people's words go to stderr.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import click

from eka.completing import packages, roots
from eka.context import Context

if TYPE_CHECKING:
    from eka_runtime.nix.path import StorePath
    from eka_runtime.store.gc import Collected
    from eka_runtime.store.roots import Root

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Duration(click.ParamType[int]):
    """`30d`, `12h`, `90m`, `2w`, or seconds; gives seconds."""

    name = "duration"

    def convert(
        self, value: str, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        match = re.fullmatch(r"(\d{1,9})([smhdw]?)", value)
        if not match:
            self.fail(f"`{value}` is not a duration such as 30d, 12h or 2w", param, context)
        return int(match[1]) * _UNITS[match[2] or "s"]


class Size(click.ParamType[int]):
    """`10G`, `500M`, `1.5T`, or bytes; gives bytes."""

    name = "size"

    def convert(
        self, value: str, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)([KMGT]?)(?:i?B)?", value, re.IGNORECASE)
        if not match:
            self.fail(f"`{value}` is not a size such as 10G or 500M", param, context)
        return int(float(match[1]) * _SIZES[match[2].upper()])


@click.command()
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--older-than", type=Duration(), default="0", metavar="D", help="Only what nobody used for D."
)
@click.option("--max", "most", type=Size(), metavar="SIZE", help="Stop when SIZE is free.")
@click.pass_obj
def gc(context: Context, dry_run: bool, older_than: int, most: int | None) -> None:
    """Delete the paths that no root needs, and print how many bytes that frees.

    Safe beside everything else: what runs, what is being added, and what was wanted by those who
    are at work now, stays.
    """
    from eka.bundle_cache import tidy
    from eka.config import cache_dir
    from eka_runtime.store.gc import Limits, collect, preview

    work = preview if dry_run else collect
    limits = Limits(older_than, most)
    with context.open_store(create=False) as store:
        store.require_writable()
        with context.output.progress("collecting") as update:
            gone: list[StorePath] = []

            def report(path: StorePath) -> None:
                gone.append(path)
                update(len(gone), 0)

            result = work(store, limits, report)
            if not dry_run:
                tidy(cache_dir(os.environ), store)
    _print(context, result, gone, dry_run)


def _print(context: Context, result: Collected, gone: list[StorePath], dry_run: bool) -> None:
    from eka.output import human_size
    from eka_runtime.store.verify import counted

    output = context.output
    if context.json:
        output.json(
            {
                "dryRun": dry_run,
                "paths": [str(path) for path in gone],
                "blobs": result.blobs,
                "bytesFreed": result.freed,
                "bytesPending": result.pending,
                "diskFreed": result.disk,
            }
        )
        return
    for path in gone:
        (output.message if dry_run else output.detail)(str(path))
    output.data(str(result.freed))
    verb = "would free" if dry_run else "freed"
    output.message(
        f"{verb} {human_size(result.freed)}: {counted(result.paths, 'path')},"
        f" {counted(result.blobs, 'blob')}"
    )
    if result.pending:
        output.message(
            f"{human_size(result.pending)} more wait for processes that are at work;"
            " the next `eka store gc` frees them"
        )


@click.command()
@click.option("--level", type=click.IntRange(1, 19), default=9, show_default=True, metavar="N")
@click.pass_obj
def compact(context: Context, level: int) -> None:
    """Compress small files that no checkout uses; they stay usable as they are.

    Prints the number of bytes saved.
    """
    from eka.output import human_size
    from eka_runtime.store.compact import compact as work
    from eka_runtime.store.verify import counted

    with context.open_store(create=False) as store:
        store.require_writable()
        with context.output.progress("compressing") as update:
            done = work(store, level=level, progress=update)
    saved = done.before - done.after
    if context.json:
        record = {"blobs": done.blobs, "bytesBefore": done.before, "bytesAfter": done.after}
        context.output.json(record)
        return
    context.output.data(str(saved))
    context.output.message(
        f"{counted(done.blobs, 'blob')}: {human_size(done.before)} became {human_size(done.after)}"
    )


@click.group()
def root() -> None:
    """Say what `eka store gc` keeps.

    Named paths, symbolic links into the store, files that name store paths (such as a script's
    lock), bundles; and whatever is running, which needs no root.
    """


@root.command("add")
@click.argument("target", metavar="PATH|LINK|FILE", shell_complete=packages)
@click.argument("name", required=False)
@click.pass_obj
def root_add(context: Context, target: str, name: str | None) -> None:
    """Keep a store path; or what a link leads to, or a file names, for as long as it is there.

    Prints the name of the root.
    """
    from eka.commands.store_arguments import store_path
    from eka_runtime.store.roots import kept, root_for

    made = root_for(target if os.path.lexists(target) else str(store_path(target)), name)
    with context.open_store(create=False) as store:
        store.require_writable()
        # Raises for what is not there, and keeps it from going before the root is.
        store.paths.touch(kept(made) or ())
        store.roots.add(made)
    if context.json:
        context.output.json(_record(made))
    else:
        context.output.data(made.name)


@root.command("list")
@click.pass_obj
def root_list(context: Context) -> None:
    """List roots: name, kind, where it is, and what it keeps; dead ones are marked."""
    from eka.output import table

    with context.open_store(create=False) as store:
        roots = list(store.roots.all())
    if context.json:
        for one in roots:
            context.output.json(_record(one))
        return
    rows = [(one.name, one.kind, os.fsdecode(one.place) or "-", _keeps(one)) for one in roots]
    for line in table(rows, ("NAME", "KIND", "PLACE", "KEEPS")) if rows else ():
        context.output.data(line)


@root.command("remove")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=roots)
@click.pass_obj
def root_remove(context: Context, names: tuple[str, ...]) -> None:
    """Remove roots by name; what they kept is deleted by the next collection."""
    from eka_runtime.errors import UsageError

    with context.open_store(create=False) as store:
        store.require_writable()
        for name in names:
            if not store.roots.remove(name):
                raise UsageError(
                    f"there is no root `{name}`", hint="see `eka store root list` for their names"
                )


def _record(one: Root) -> dict[str, object]:
    from eka_runtime.store.roots import kept

    paths = kept(one)
    return {
        "name": one.name,
        "kind": one.kind,
        "place": os.fsdecode(one.place) or None,
        "alive": paths is not None,
        "paths": [str(path) for path in paths or ()],
    }


def _keeps(one: Root) -> str:
    from eka_runtime.store.roots import kept
    from eka_runtime.store.verify import counted

    paths = kept(one)
    if paths is None:
        return "nothing (not running)" if one.kind == "run" else "nothing (gone)"
    return str(paths[0]) if len(paths) == 1 else counted(len(paths), "path")
