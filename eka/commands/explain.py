"""`eka explain`: what a run may see, and who asked for it; nothing is run."""

from __future__ import annotations

from pathlib import Path

import click

from eka.commands.grants import Asked, grant_options
from eka.completing import packages
from eka.context import Context


@click.command()
@click.argument("target", metavar="FILE|TARGET|BUNDLE", shell_complete=packages)
@grant_options
@click.pass_obj
def command(context: Context, asked: Asked, target: str) -> None:
    """Print every mount, variable, file and namespace of a run, and who asked for it."""
    from eka.launching import explain, get_ready
    from eka.target import from_target
    from eka_runtime.oci.record import load_reasons

    if (Path(target) / "config.json").exists():
        explain(load_reasons(Path(target)), (), context.output)
        return
    with get_ready(
        lambda reach: (from_target(target, asked.flags(), reach), None),
        context.store_dir,
        context.output,
        offline=context.offline,
    ) as (ready, _):
        explain(ready.bundle.reasons, ready.notes, context.output)
