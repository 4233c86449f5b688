"""`eka shell`: an interactive shell in a bundle, with the packages on its PATH."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from eka.commands.configured import Configured, config_options
from eka.commands.grants import Asked, grant_options
from eka.completing import packages
from eka.context import Context

if TYPE_CHECKING:
    from eka.fetching import Reach
    from eka.packages import PackageRef
    from eka.wanted import Wanted


@click.command()
@click.argument("target", required=False, shell_complete=packages)
@click.option("--record", is_flag=True, help="Note the run in the ledger.")
@click.option("--lazy", is_flag=True, help="Start before all is fetched, where that can be.")
@grant_options
@config_options
@click.pass_obj
def command(
    context: Context,
    asked: Asked,
    configured: Configured,
    target: str | None,
    record: bool,
    lazy: bool,
) -> NoReturn:
    """Open a shell with the -p packages (and TARGET, one more) on its PATH.

    Of a TARGET that is a shell.nix, or a directory with one, it has what the derivation is built
    with.
    """
    from eka.launching import get_ready
    from eka.wanted import Program, from_flags

    words = (asked.interpreter or "sh",)
    choices = configured.choices() if configured.stated else None

    def wanted(reach: Reach) -> tuple[Wanted, None]:
        reach.choices = choices
        shell = Program(words, "--interpreter" if asked.interpreter else "default")
        found = from_flags(asked.flags(), profile="shell")._replace(program=shell)
        more = _packages_of(target, reach) if target else ()
        return found._replace(packages=(*found.packages, *more)), None

    with get_ready(
        wanted,
        context.store_dir,
        context.output,
        offline=context.offline,
        record=record,
        lazy=lazy,
    ) as (ready, _):
        os._exit(ready.start((), context.output))


def _packages_of(target: str, reach: Reach) -> tuple[PackageRef, ...]:
    from eka.packages import PackageRef

    place = Path(target.partition("#")[0])
    if not (place.name == "shell.nix" or (place / "shell.nix").is_file()):
        return (PackageRef(target, "target", Path.cwd()),)
    from eka.evaluate.installing import install_shell

    found, _ = install_shell(target, Path.cwd(), reach)
    reach.installed += found
    return tuple(PackageRef(str(one.path), "target", Path.cwd()) for one in found)
