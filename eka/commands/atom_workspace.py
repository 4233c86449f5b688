"""What commands on atoms share: the workspace of the current directory, and words for changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eka.context import Context

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eka.atom.settings import AtomSettings
    from eka.atom.workspace import Change, Result, Workspace


def atom_settings() -> AtomSettings:
    from eka.atom.settings import load_atom_settings

    return load_atom_settings(os.environ, Path.cwd())


def open_workspace(context: Context, directory: Path) -> Workspace:
    """The set that `directory` is in; packages that cannot be read are warned about."""
    from eka.atom.sets import open_set
    from eka.atom.workspace import Workspace

    local = open_set(Path(os.path.abspath(directory)))
    for problem in local.unreadable:
        context.output.warning(f"{problem} (left out of the set)")
    return Workspace(
        local,
        atom_settings(),
        context.output.warning,
        offline=context.offline,
        on_download=lambda url: _announce(context, url),
    )


def finish(context: Context, workspace: Workspace, result: Result) -> None:
    """Writes, and says what changed: people on stderr; the lock's path or JSON on stdout."""
    workspace.write(result)
    tell_changes(context, result.changes)
    print_lock(context, result)


def print_lock(context: Context, result: Result) -> None:
    lock = os.fspath(result.directory / "atom.lock")
    if context.json:
        changes = [change._asdict() for change in result.changes]
        context.output.json({"lock": lock, "changed": result.changed, "changes": changes})
    else:
        context.output.data(lock)


def tell_changes(context: Context, changes: Iterable[Change]) -> None:
    for change in changes:
        if change.old is None:
            context.output.message(f"+ {change.name} {change.new}")
        elif change.new is None:
            context.output.message(f"- {change.name} {change.old}")
        else:
            context.output.message(f"~ {change.name} {change.old} -> {change.new}")


def _announce(context: Context, url: str) -> Any:
    context.output.message(f"fetching `{url}`")
    return lambda size: None
