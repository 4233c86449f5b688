"""`eka shell`: an interactive shell in a bundle, with the packages on its PATH."""

from __future__ import annotations

import os
from typing import NoReturn

import click

from eka.commands.grants import Asked, grant_options
from eka.completing import packages
from eka.context import Context


@click.command()
@click.argument("target", required=False, shell_complete=packages)
@click.option("--record", is_flag=True, help="Note the run in the ledger.")
@grant_options
@click.pass_obj
def command(context: Context, asked: Asked, target: str | None, record: bool) -> NoReturn:
    """Open a shell with the -p packages (and TARGET, one more) on its PATH."""
    from eka.launching import get_ready
    from eka.script.flags import Flags
    from eka.wanted import Program, Wanted, from_flags

    packages = (*asked.package, *([target] if target else []))
    flags: Flags = asked._replace(package=packages).flags()
    words = (asked.interpreter or "sh",)

    def wanted() -> Wanted:
        shell = Program(words, "--interpreter" if asked.interpreter else "default")
        return from_flags(flags, profile="shell")._replace(program=shell)

    with get_ready(
        lambda reach: (wanted(), None),
        context.store_dir,
        context.output,
        offline=context.offline,
        record=record,
    ) as (ready, _):
        os._exit(ready.start((), context.output))
