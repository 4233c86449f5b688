"""`eka store sign` and `eka store key`: signatures of what is in the store, and keys for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eka.completing import store_paths
from eka.context import Context

if TYPE_CHECKING:
    from eka_runtime.nix.signing import SecretKey


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=store_paths)
@click.option(
    "--key-file", "-k", metavar="FILE", required=True, help="The secret key, as Nix writes it."
)
@click.option("--recursive", "-r", is_flag=True, help="Also all that the paths refer to.")
@click.pass_obj
def sign(context: Context, paths: tuple[str, ...], key_file: str, recursive: bool) -> None:
    """Add a signature to paths of the store; those that got one are printed.

    Whoever trusts the key then believes that the path has these contents and references, wherever
    it is copied to.
    """
    from eka.commands.store_arguments import store_path
    from eka_runtime.cache.keys import read_secret_key
    from eka_runtime.nix.signing import fingerprint

    key = read_secret_key(key_file)
    wanted = [store_path(path) for path in paths]
    with context.open_store(create=False) as store:
        store.require_writable()
        chosen = store.closure(wanted) if recursive else [store.info(path).path for path in wanted]
        for path in chosen:
            info = store.info(path)
            data = fingerprint(info.path, info.nar_hash, info.nar_size, info.references)
            if store.paths.add_signatures(info.path, [key.sign(data)]):
                _print(context, str(path))


@click.group()
def key() -> None:
    """Make keys for signing what is in the store."""


@key.command()
@click.argument("name")
@click.option(
    "--secret-key-file",
    "-o",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where the secret key goes; FILE.pub gets the public one.",
)
@click.pass_obj
def generate(context: Context, name: str, file: Path | None) -> None:
    """Make a key called NAME, such as `cache.example.org-1`.

    Without a file the secret key is printed; with one, the public key, which is for those who are
    to trust it.
    """
    from eka_runtime.errors import FormatError, UsageError
    from eka_runtime.nix.signing import SecretKey

    try:
        made = SecretKey.generate(name)
    except FormatError as error:
        raise UsageError(str(error), hint=error.hint) from error
    if file is None:
        if sys.stdout.isatty():
            context.output.warning("this is the secret key; `-o FILE` keeps it off the screen")
        _show(context, made)
        return
    from eka_runtime.cache.keys import write_new

    write_new(file, made.text() + "\n", 0o600)
    write_new(file.with_name(file.name + ".pub"), f"{made.public}\n", 0o644)
    if context.json:
        context.output.json({"publicKey": str(made.public), "file": str(file)})
    else:
        context.output.data(str(made.public))


def _show(context: Context, made: SecretKey) -> None:
    if context.json:
        context.output.json({"publicKey": str(made.public), "secretKey": made.text()})
    else:
        context.output.data(made.text())


@key.command()
@click.argument("file", default="-")
@click.pass_obj
def public(context: Context, file: str) -> None:
    """Print the public key that belongs to the secret key in FILE, or on stdin."""
    from eka_runtime.cache.keys import read_secret_key

    found = read_secret_key("/dev/stdin" if file == "-" else file).public
    if context.json:
        context.output.json({"publicKey": str(found)})
    else:
        context.output.data(str(found))


def _print(context: Context, path: str) -> None:
    if context.json:
        context.output.json({"path": path})
    else:
        context.output.data(path)
