"""`eka completion SHELL`: the completion script for bash, zsh or fish."""

from __future__ import annotations

import click

from eka.context import Context


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def command(context: Context, shell: str) -> None:
    """Print the completion script of SHELL, for `source <(eka completion bash)`."""
    from click.shell_completion import get_completion_class

    from eka.cli import cli

    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"no completion for `{shell}`")
    context.output.data(completion(cli, {}, "eka", "_EKA_COMPLETE").source())
