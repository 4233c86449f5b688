"""`eka bundle create`: the bundle that a run would use, as a directory of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from eka.commands.grants import Asked, grant_options
from eka.completing import packages
from eka.context import Context


@click.command(name="create", context_settings={"allow_interspersed_args": False})
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR")
@click.argument("target", shell_complete=packages)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARG]…")
@grant_options
@click.pass_obj
def command(
    context: Context, asked: Asked, output: Path, target: str, arguments: tuple[str, ...]
) -> None:
    """Write the bundle of TARGET to DIR; `crun run -b DIR NAME` starts it without eka.

    It refers to files in the store by their place on this host.
    """
    from eka.launching import get_ready
    from eka.target import from_target
    from eka_runtime.oci.bundle import write_bundle
    from eka_runtime.store.roots import bundle_root

    with get_ready(
        lambda reach: (from_target(target, asked.flags(), reach, arguments), None),
        context.store_dir,
        context.output,
        offline=context.offline,
    ) as (ready, _):
        write_bundle(ready.bundle, output)
        if ready.store.writable:
            # What it refers to stays in the store for as long as it is there.
            closure = ready.prepared.closure
            ready.store.roots.add(bundle_root(output, closure, running=False))
    for note in ready.prepared.grants.notes:
        context.output.warning(note)
    if context.json:
        context.output.json({"bundle": str(output.absolute()), "digest": ready.bundle.digest()})
    else:
        context.output.data(str(output.absolute()))
