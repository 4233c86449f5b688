"""`eka add --script FILE P…`, `eka remove --script FILE P…`: packages of a script's header."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from eka.completing import files, packages
from eka.context import Context

_NO_ATOMS = "this version of eka knows no dependencies of atoms"
_script = click.option("--script", metavar="FILE", shell_complete=files, help="Edit FILE's header.")
_packages = click.argument(
    "names", metavar="P...", nargs=-1, required=True, shell_complete=packages
)

Edit = Callable[[bytes, str, Sequence[str]], bytes]


@click.command()
@_packages
@_script
@click.pass_obj
def add(context: Context, names: tuple[str, ...], script: str | None) -> None:
    """Add packages to a script: store paths, or links to them.

    Edits the header in place, and makes one where there is none.
    """
    from pathlib import Path

    from eka.locked import as_stated
    from eka.packages import PackageRef, resolve_package
    from eka.script.edit import add_packages

    file = _required(script, "add")
    refs = [PackageRef(name, "eka add", Path.cwd()) for name in names]
    for ref in refs:
        resolve_package(ref)
    _edit(context, file, add_packages, [as_stated(ref, file) for ref in refs])


@click.command()
@_packages
@_script
@click.pass_obj
def remove(context: Context, names: tuple[str, ...], script: str | None) -> None:
    """Remove packages from a script's header, as it states them."""
    from eka.script.edit import remove_packages

    _edit(context, _required(script, "remove"), remove_packages, names)


def _required(script: str | None, verb: str) -> str:
    from eka_runtime.errors import UsageError

    if script is None:
        raise UsageError(_NO_ATOMS, hint=f"for packages of a script: `eka {verb} --script FILE P`")
    return script


def _read(file: str) -> bytes:
    import os

    from eka.script.header import read_head
    from eka_runtime.errors import UsageError

    if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):
        raise UsageError(f"`{file}` is not a regular file", hint="name a script")
    read_head(file)  # which has the messages for what cannot be read
    with open(file, "rb") as stream:
        return stream.read()


def _edit(context: Context, file: str, edit: Edit, names: Sequence[str]) -> None:
    import os

    from eka.locked import lock_place
    from eka.replacing import replace_file
    from eka.script.header import parse_header
    from eka_runtime.errors import UsageError

    content = _read(file)
    edited = edit(content, file, names)
    if edited == content:
        context.output.message(f"`{file}` states that already")
        return
    try:
        replace_file(file, edited)
    except OSError as error:
        raise UsageError(f"cannot write `{file}`: {error.strerror}") from error
    scanned = parse_header(content, file).metadata is None
    if scanned and b"/nix/store/" in content:
        context.output.warning(
            f"`{file}` states its packages now, so store paths in its text are not looked for"
        )
    if os.path.exists(lock_place(file)):
        context.output.message(f"`eka lock {file}` renews its lock")
