"""`eka add` and `eka remove`: dependencies of an atom, or packages of a script's header."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from eka.completing import directories, files, packages
from eka.context import Context

_script = click.option("--script", metavar="FILE", shell_complete=files, help="Edit FILE's header.")
_path = click.option(
    "-p", "--path", default=".", metavar="PATH", shell_complete=directories, help="The atom's path."
)

Edit = Callable[[bytes, str, Sequence[str]], bytes]


@click.command()
@click.argument("names", metavar="URI", nargs=-1, required=True, shell_complete=packages)
@_script
@_path
@click.option("-s", "--set", "set_tag", metavar="TAG", help="Nickname of a set that is new here.")
@click.option("-k", "--key", metavar="NAME", help="direct: its name; by default from the URL.")
@click.option(
    "--git",
    is_flag=False,
    flag_value="",
    metavar="[REF|REQ]",
    help="direct: a git repository, at HEAD, a ref, or a version of its tags.",
)
@click.option("--tar", type=bool, metavar="BOOL", help="direct: unpack it, or do not.")
@click.option("--build", is_flag=True, help="direct: fetch it when building, not when evaluating.")
@click.option("--unpack", type=bool, metavar="BOOL", help="direct: unpack what a build fetches.")
@click.pass_obj
def add(
    context: Context,
    names: tuple[str, ...],
    script: str | None,
    path: str,
    set_tag: str | None,
    key: str | None,
    git: str | None,
    tar: bool | None,
    build: bool,
    unpack: bool | None,
) -> None:
    """Add a dependency to an atom, and lock it.

    \b
    eka add gh:owner/repo::label@^1        an atom of another set
    eka add ::label                        an atom of this set
    eka add direct nix URL                 a file, archive or git repository
    eka add --script FILE P...             packages of a script: store paths, or links to them
    """
    from eka.atom.direct import Request

    request = Request(git, tar, build, unpack)
    direct = key is not None or request != Request()
    if script is not None:
        _refuse(direct or set_tag is not None, "options of atoms", "`--script`")
        _add_to_script(context, script, names)
    elif names[0] == "direct" and len(names) > 1:
        _add_direct(context, names, Path(path), key, request)
    else:
        _refuse(direct, "`--key`, `--git`, `--tar`, `--build` and `--unpack`", "atoms")
        _add_atom(context, names, Path(path), set_tag)


@click.command()
@click.argument("names", metavar="LABEL|NAME...", nargs=-1, required=True, shell_complete=packages)
@_script
@_path
@click.pass_obj
def remove(context: Context, names: tuple[str, ...], script: str | None, path: str) -> None:
    """Remove dependencies from an atom, or packages from a script's header as it states them."""
    if script is not None:
        from eka.script.edit import remove_packages

        _edit(context, script, remove_packages, names)
        return
    from eka.atom import adding
    from eka.commands.atom_workspace import finish, open_workspace

    _refuse_packages(names, "remove")
    workspace = open_workspace(context, Path(path))
    finish(context, workspace, adding.remove(workspace, Path(path), names))


def _add_atom(
    context: Context, names: tuple[str, ...], directory: Path, set_tag: str | None
) -> None:
    from eka.atom import adding
    from eka.atom.uri import parse_uri
    from eka.commands.atom_workspace import atom_settings, finish, open_workspace

    _refuse_packages(names, "add")
    workspace = open_workspace(context, directory)
    aliases = atom_settings().aliases
    for uri in [parse_uri(name, aliases) for name in names]:
        added = adding.add_atom(workspace, directory, uri, set_tag)
        finish(context, workspace, added.result)


def _add_direct(
    context: Context, names: tuple[str, ...], directory: Path, key: str | None, request: object
) -> None:
    from eka.atom import adding
    from eka.atom.direct import Request
    from eka.commands.atom_workspace import atom_settings, finish, open_workspace
    from eka_runtime.errors import UsageError

    assert isinstance(request, Request)
    if len(names) != 3 or names[1] != "nix":
        raise UsageError("direct dependencies are Nix's", hint="write `eka add direct nix URL`")
    workspace = open_workspace(context, directory)
    added = adding.add_direct(workspace, directory, names[2], key, request, atom_settings())
    finish(context, workspace, added.result)


def _refuse(given: bool, what: str, by: str) -> None:
    from eka_runtime.errors import UsageError

    if given:
        raise UsageError(f"{what} do not go with {by}", hint="see `eka add --help`")


def _refuse_packages(names: Sequence[str], verb: str) -> None:
    from eka_runtime.errors import UsageError

    for name in names:
        if name.startswith(("/nix/store/", "./")):
            raise UsageError(
                f"`{name}` is a package, and no atom",
                hint=f"for packages of a script: `eka {verb} --script FILE P`",
            )


def _add_to_script(context: Context, file: str, names: Sequence[str]) -> None:
    from eka.locked import as_stated
    from eka.packages import PackageRef, names_atom, resolve_package
    from eka.script.edit import add_packages

    refs = [PackageRef(name, "eka add", Path.cwd()) for name in names]
    for ref in refs:
        if not names_atom(ref):
            resolve_package(ref)
    _edit(context, file, add_packages, [as_stated(ref, file) for ref in refs])


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
