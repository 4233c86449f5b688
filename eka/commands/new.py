"""`eka new`: a new atom in the set."""

from __future__ import annotations

from pathlib import Path

import click

from eka.completing import directories
from eka.context import Context


@click.command()
@click.argument("path", shell_complete=directories)
@click.option("-l", "--label", metavar="LABEL", help="Its name; by default PATH's last part.")
@click.option("-V", "--version", "version", default="0.1.0", show_default=True, metavar="VERSION")
@click.option(
    "--compose",
    type=click.Choice(["atom", "nix", "static"]),
    default="atom",
    show_default=True,
    help="By the composer of eka.toml (an atom), a plain import of default.nix, or as data.",
)
@click.pass_obj
def command(context: Context, path: str, label: str | None, version: str, compose: str) -> None:
    """Make an atom at PATH, list it in `ekala.toml`, and lock what composes it.

    Prints the path of its manifest. Without network the lock is left to `eka resolve`.
    """
    from eka.atom import adding
    from eka.commands.atom_workspace import atom_settings, open_workspace, tell_changes
    from eka_runtime.errors import GitError, ResolveError

    workspace = open_workspace(context, Path.cwd())
    settings = atom_settings()
    new = adding.plan_new(workspace.local, Path(path), label, version, compose, settings)
    adding.write_new(workspace.local, new)
    locked = True
    try:
        result = workspace.resolve(new.directory)
        workspace.write(result)
        tell_changes(context, result.changes)
    except (GitError, ResolveError) as error:
        locked = False
        context.output.warning(f"`{new.path}` is not locked: {error}")
        context.output.message(f"run `eka resolve {path}` when that is mended")
    manifest = str(new.directory / "atom.toml")
    if context.json:
        context.output.json({"manifest": manifest, "path": new.path, "locked": locked})
    else:
        context.output.data(manifest)
