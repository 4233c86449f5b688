"""`eka eval`: evaluates an atom or an expression in its sandbox, and prints the value."""

from __future__ import annotations

import json

import click

from eka.commands.configured import Configured, config_options
from eka.completing import files
from eka.context import Context


@click.command()
@click.argument("target", default=".", shell_complete=files)
@click.option("--attr", "-A", metavar="A", help="An attribute of the value, such as `a.b`.")
@click.option("--raw", is_flag=True, help="Print a string as it is, without quotes.")
@config_options
@click.pass_obj
def command(
    context: Context, configured: Configured, target: str, attr: str | None, raw: bool
) -> None:
    """Print the value of TARGET: an atom's directory, a .nix file, or either with `#attribute`.

    It is printed as JSON; with --json on one line. Evaluation sees TARGET and what its lock names,
    and neither files of yours nor the network.
    """
    from eka.commands.evaluating import evaluating, split_target
    from eka_runtime.errors import UsageError

    if raw and context.json:
        raise UsageError("`--raw` and `--json` exclude each other")
    where = split_target(target, attr)
    with evaluating(context, where, configured) as evaluation:
        value = evaluation.value(where.attribute)
    if raw:
        if not isinstance(value, str):
            raise UsageError(
                f"the value is no string: {json.dumps(value)[:80]}", hint="drop `--raw`"
            )
        context.output.bytes(value.encode("utf-8"))
    elif context.json:
        context.output.json(value)
    else:
        context.output.data(json.dumps(value, ensure_ascii=False, indent=2))
