"""`eka resolve`: brings the locks of atoms in step with their manifests."""

from __future__ import annotations

from pathlib import Path

import click

from eka.context import Context


@click.command()
@click.argument("atoms", metavar="[ATOM...]", nargs=-1)
@click.option("-a", "--all", "all_", is_flag=True, help="All atoms of the set.")
@click.option("-f", "--fresh", is_flag=True, help="Keep nothing of the old lock.")
@click.option("-u", "--upgrade", metavar="LABEL", multiple=True, help="Look only this up anew.")
@click.option("--check", is_flag=True, help="Write nothing; fail if a lock would change.")
@click.pass_obj
def command(
    context: Context,
    atoms: tuple[str, ...],
    all_: bool,
    fresh: bool,
    upgrade: tuple[str, ...],
    check: bool,
) -> None:
    """Synchronize `atom.lock` with `atom.toml`: ATOM is a label or a path, by default `.`.

    What is locked and still fits stays; only what is missing or does not fit is looked up. Prints
    the paths of the locks.
    """
    from eka.atom.workspace import atom_directory
    from eka.commands.atom_workspace import finish, open_workspace, print_lock, tell_changes
    from eka_runtime.errors import LockError, UsageError

    if all_ and atoms:
        raise UsageError("`--all` and names exclude one another", hint="give one of them")
    workspace = open_workspace(context, Path.cwd())
    local = workspace.local
    names = atoms or ((".",) if not all_ else ())
    places = [local.root / member.path for member in local.members.values()] if all_ else []
    places += [atom_directory(name, local) for name in names]
    stale = []
    for place in places:
        result = workspace.resolve(place, fresh=fresh, upgrade=upgrade)
        if not check:
            finish(context, workspace, result)
            continue
        print_lock(context, result)
        tell_changes(context, result.changes)
        if result.changed:
            stale.append(str(place / "atom.lock"))
    if stale:
        raise LockError(
            f"{', '.join(f'`{name}`' for name in stale)} would change", hint="run `eka resolve`"
        )
