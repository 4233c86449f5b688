"""`eka run TARGET`: a store path, a program of `-p` packages, or a script."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from eka.commands.configured import Configured, config_options
from eka.commands.grants import Asked, grant_options
from eka.completing import files, packages
from eka.context import Context

if TYPE_CHECKING:
    from eka.fetching import Reach
    from eka.wanted import Wanted


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--keep", is_flag=True, help="Say where the bundle is.")
@click.option("--record", is_flag=True, help="Note the run in the ledger.")
@click.option("--lazy", is_flag=True, help="Start before all is fetched, where that can be.")
@click.option("--require-sandbox", is_flag=True, help="Refuse a weaker sandbox.")
@click.argument("target", shell_complete=packages)
@click.argument(
    "arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARG]…", shell_complete=files
)
@grant_options
@config_options
@click.pass_obj
def command(
    context: Context,
    asked: Asked,
    configured: Configured,
    target: str,
    arguments: tuple[str, ...],
    keep: bool,
    record: bool,
    lazy: bool,
    require_sandbox: bool,
) -> NoReturn:
    """Run TARGET in a bundle: a store path's program, a program of the -p packages, what an atom
    builds (`.`, `.#attr`, a URI), or a script.

    The status is the program's own.
    """
    from eka.launching import get_ready, record_command, require_full_sandbox
    from eka.target import from_target

    choices = configured.choices() if configured.stated else None

    def wanted(reach: Reach) -> tuple[Wanted, None]:
        reach.choices = choices
        return from_target(target, asked.flags(), reach), None

    with get_ready(
        wanted,
        context.store_dir,
        context.output,
        offline=context.offline,
        record=record,
        lazy=lazy,
    ) as (ready, _):
        if require_sandbox:
            require_full_sandbox(ready)
        if keep:
            context.output.message(f"bundle: {ready.bundle_dir}")
        elif ready.prepared.lasting and sys.argv[1:2] == ["run"]:
            record_command(sys.argv[1:], ready, context.output)
        os._exit(ready.start(arguments, context.output))
