"""`eka plan`: evaluates to derivations, which are in the store then, and prints their paths."""

from __future__ import annotations

import click

from eka.commands.configured import Configured, config_options
from eka.completing import files
from eka.context import Context


@click.command()
@click.argument("targets", nargs=-1, shell_complete=files, metavar="[TARGET]…")
@click.option("--attr", "-A", metavar="A", help="An attribute of the value, such as `a.b`.")
@config_options
@click.pass_obj
def command(
    context: Context, configured: Configured, targets: tuple[str, ...], attr: str | None
) -> None:
    """Print the derivations of each TARGET (default `.`): of the value itself, of its `main`, or
    all that it has.

    With --json also what they are called, their outputs, and the configuration that made them.
    """
    from eka.commands.evaluating import evaluating, split_target

    for text in targets or (".",):
        where = split_target(text, attr)
        with evaluating(context, where, configured.choices()) as evaluation:
            for one in evaluation.plan(where.attribute):
                if not context.json:
                    context.output.data(str(one.drv))
                    continue
                context.output.json(
                    {
                        "attribute": one.attribute,
                        "drvPath": str(one.drv),
                        "name": one.name,
                        "system": one.system,
                        "outputs": dict(one.outputs),
                        "configHash": evaluation.graph.config.hash(),
                        "artifactId": evaluation.artifact,
                    }
                )
