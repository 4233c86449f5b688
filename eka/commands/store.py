"""`eka store`: putting things into the store and getting them out again.

Most commands are in the modules beside this one, which are imported when one of theirs is called;
what those do that are often repeated is in `storing.py`. Constraint: stdout carries store paths or
the bytes asked for and nothing else; library modules are imported when a command runs, not before.
"""

from __future__ import annotations

from pathlib import Path

import click

from eka.completing import files, store_paths, store_places
from eka.context import Context
from eka.lazy_group import LazyGroup

_SHOW, _GC, _SIGN = "eka.commands.store_show", "eka.commands.store_gc", "eka.commands.store_sign"

COMMANDS = {
    "add": (__name__, "add", "Add files and directories"),
    "add-image": ("eka.commands.store_image", "add_image", "Add the files of an OCI image"),
    "import": (__name__, "import_", "Add the paths of a `nix-store --export` stream"),
    "export": (__name__, "export", "Write paths as a stream for `nix-store --import`"),
    "nar": (__name__, "nar", "Write a path as a NAR"),
    "restore": (__name__, "restore", "Write the tree of a path to a new directory"),
    "ls": (_SHOW, "ls", "List a directory of the store"),
    "cat": (_SHOW, "cat", "Write a file of the store"),
    "info": (_SHOW, "info", "Say what is known about paths"),
    "list": (_SHOW, "list_", "List all valid paths"),
    "closure": (_SHOW, "closure", "List all that paths need"),
    "referrers": (_SHOW, "referrers", "List what refers to paths"),
    "why": (_SHOW, "why", "Show how a path comes to need another one"),
    "du": (_SHOW, "du", "Say what takes how much space"),
    "gc": (_GC, "gc", "Delete what no root needs"),
    "compact": (_GC, "compact", "Compress small files that no checkout uses"),
    "root": (_GC, "root", "Say what `gc` keeps"),
    "verify": ("eka.commands.store_verify", "verify", "Check the store, and repair it"),
    "copy": ("eka.commands.store_copy", "copy", "Copy paths between stores, caches and services"),
    "serve": ("eka.commands.store_serve", "serve", "Serve this store to others"),
    "mount": ("eka.commands.store_mount", "mount", "Show the store as a file system"),
    "sign": (_SIGN, "sign", "Add a signature to paths"),
    "key": (_SIGN, "key", "Make keys for signing"),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def group() -> None:
    """Add, import, look into and check the store.

    PATH is `/nix/store/<hash>-<name>`, its last part, or a symbolic link to it.
    """


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=files)
@click.option("--name", metavar="NAME", help="Name of the store path, if not the file's own.")
@click.option("--flat", is_flag=True, help="Address one file by its contents alone.")
@click.pass_obj
def add(context: Context, paths: tuple[str, ...], name: str | None, flat: bool) -> None:
    """Add files and directories; the store paths are those of `nix-store --add`.

    With --flat they are those of `nix-store --add-fixed sha256`.
    """
    from eka.commands import storing
    from eka_runtime.errors import UsageError

    if name is not None and len(paths) > 1:
        raise UsageError("`--name` names one path", hint="add the paths one by one")
    storing.add(context, paths, name, flat)


@click.command("import")
@click.argument("file", metavar="[FILE]", default="-", shell_complete=files)
@click.pass_obj
def import_(context: Context, file: str) -> None:
    """Add the paths of a `nix-store --export` stream, from FILE or stdin.

    Every path is printed when it is safely stored; the rest of a broken stream changes nothing.
    """
    from eka.commands import storing

    storing.import_stream(context, file)


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=store_paths)
@click.option("--closure", is_flag=True, help="Also everything that the paths refer to.")
@click.pass_obj
def export(context: Context, paths: tuple[str, ...], closure: bool) -> None:
    """Write paths to stdout as a stream for `nix-store --import` or `eka store import`."""
    from eka.commands import storing

    storing.export(context, paths, closure)


@click.command()
@click.argument("path", shell_complete=store_paths)
@click.pass_obj
def nar(context: Context, path: str) -> None:
    """Write a path to stdout as a NAR, as `nix-store --dump` does."""
    from eka.commands.store_arguments import refuse_terminal, store_path

    refuse_terminal("a NAR", "eka store nar PATH > FILE")
    wanted = store_path(path)
    with context.open_store(create=False) as store:
        store.write_nar(wanted, context.output.bytes)


@click.command()
@click.argument("path", metavar="PATH[/SUB]", shell_complete=store_places)
@click.argument("dest", type=click.Path(path_type=Path))
@click.pass_obj
def restore(context: Context, path: str, dest: Path) -> None:
    """Write the tree of a path to DEST, which must not exist, with permissions to change it."""
    from eka.commands.store_arguments import store_text

    with context.open_store(create=False) as store:
        store.restore(store_text(path), dest)
