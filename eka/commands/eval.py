"""`eka eval`: evaluates an atom or an expression in its sandbox, and prints the value."""

from __future__ import annotations

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
    from eka.commands.evaluating import print_value

    print_value(context, configured.choices(), target, attr, raw=raw)
