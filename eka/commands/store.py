"""`eka store`: putting things into the store and getting them out again.

The commands that only look are in `store_show.py`. Constraint: stdout carries store paths or the
bytes asked for and nothing else; library modules are imported when a command runs, not before.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eka.commands import (
    store_copy,
    store_gc,
    store_mount,
    store_serve,
    store_show,
    store_sign,
    store_verify,
)
from eka.completing import files, store_paths, store_places
from eka.context import Context

if TYPE_CHECKING:
    from eka_runtime.store.pathinfo import PathInfo
    from eka_runtime.store.store import Store


@click.group()
def group() -> None:
    """Add, import, look into and check the store.

    PATH is `/nix/store/<hash>-<name>`, its last part, or a symbolic link to it.
    """


@group.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=files)
@click.option("--name", metavar="NAME", help="Name of the store path, if not the file's own.")
@click.option("--flat", is_flag=True, help="Address one file by its contents alone.")
@click.pass_obj
def add(context: Context, paths: tuple[str, ...], name: str | None, flat: bool) -> None:
    """Add files and directories; the store paths are those of `nix-store --add`.

    With --flat they are those of `nix-store --add-fixed sha256`.
    """
    from eka_runtime.errors import UsageError

    if name is not None and len(paths) > 1:
        raise UsageError("`--name` names one path", hint="add the paths one by one")
    with context.open_store() as store:
        for path in paths:
            _print_path(context, _add(context, store, path, name, flat))


def _add(context: Context, store: Store, path: str, name: str | None, flat: bool) -> PathInfo:
    with context.output.progress(f"adding {path}") as update:
        if flat:
            return store.add_flat(path, name=name, progress=update)
        return store.add_tree(path, name=name, progress=update)


@group.command("import")
@click.argument("file", metavar="[FILE]", default="-", shell_complete=files)
@click.pass_obj
def import_(context: Context, file: str) -> None:
    """Add the paths of a `nix-store --export` stream, from FILE or stdin.

    Every path is printed when it is safely stored; the rest of a broken stream changes nothing.
    """
    from eka.commands.store_arguments import input_bytes

    with input_bytes(file) as read, context.open_store() as store:
        store.import_stream(read, each=lambda info: _print_path(context, info))


def _print_path(context: Context, info: PathInfo) -> None:
    if context.json:
        context.output.json({"path": str(info.path)})
    else:
        context.output.data(str(info.path))
    # Each path is valid from now on, whatever becomes of the rest: whoever reads must learn of it.
    sys.stdout.flush()


@group.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=store_paths)
@click.option("--closure", is_flag=True, help="Also everything that the paths refer to.")
@click.pass_obj
def export(context: Context, paths: tuple[str, ...], closure: bool) -> None:
    """Write paths to stdout as a stream for `nix-store --import` or `eka store import`."""
    from eka.commands.store_arguments import refuse_terminal, store_path

    refuse_terminal("an export stream", "eka store export PATH > FILE")
    wanted = [store_path(path) for path in paths]
    with context.open_store(create=False) as store:
        store.export(store.closure(wanted) if closure else wanted, context.output.bytes)


@group.command()
@click.argument("path", shell_complete=store_paths)
@click.pass_obj
def nar(context: Context, path: str) -> None:
    """Write a path to stdout as a NAR, as `nix-store --dump` does."""
    from eka.commands.store_arguments import refuse_terminal, store_path

    refuse_terminal("a NAR", "eka store nar PATH > FILE")
    wanted = store_path(path)
    with context.open_store(create=False) as store:
        store.write_nar(wanted, context.output.bytes)


@group.command()
@click.argument("path", metavar="PATH[/SUB]", shell_complete=store_places)
@click.argument("dest", type=click.Path(path_type=Path))
@click.pass_obj
def restore(context: Context, path: str, dest: Path) -> None:
    """Write the tree of a path to DEST, which must not exist, with permissions to change it."""
    from eka.commands.store_arguments import store_text

    with context.open_store(create=False) as store:
        store.restore(store_text(path), dest)


for _command in (
    *store_show.COMMANDS,
    *store_gc.COMMANDS,
    store_verify.verify,
    store_copy.copy,
    store_serve.serve,
    store_mount.mount,
    store_sign.sign,
    store_sign.key,
):
    group.add_command(_command)
