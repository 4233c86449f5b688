"""The options that every command takes, before or after its own name: `--store`, `-C`, `--json`, …

They change the Context of the command and are not passed to its function.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from eka.completing import directories
from eka.context import Context


def with_common_options(command: click.Command) -> click.Command:
    """Adds the common options to a command and everything below it, once."""
    if isinstance(command, click.Group):
        for child in command.commands.values():
            with_common_options(child)
    taken = {opt for param in command.params for opt in param.opts}
    command.params += [option for option in _common_options() if not taken & set(option.opts)]
    return command


def _common_options() -> list[click.Option]:
    def option(*names: str, callback: Callable[[Context, Any], None], **extra: Any) -> click.Option:
        def apply(ctx: click.Context, param: click.Parameter, value: Any) -> None:
            if value not in (None, False, 0):
                callback(ctx.find_object(Context) or ctx.ensure_object(Context), value)

        return click.Option(names, callback=apply, expose_value=False, **extra)

    return [
        option("--json", callback=_set_json, is_flag=True, help="Print data as JSON objects."),
        option(
            "--store",
            callback=_set_store,
            metavar="DIR",
            shell_complete=directories,
            help="Use the store in DIR.",
        ),
        option(
            "-C",
            "--directory",
            callback=_chdir,
            metavar="DIR",
            shell_complete=directories,
            help="Start in DIR.",
        ),
        option("-v", "--verbose", callback=_louder, count=True, help="Say more."),
        option("-q", "--quiet", callback=_quiet, is_flag=True, help="Say only errors."),
        option(
            "--color",
            callback=_set_color,
            type=click.Choice(["auto", "always", "never"]),
            help="Color messages.",
        ),
        option("--offline", callback=_set_offline, is_flag=True, help="Use no network."),
    ]


def _set_json(context: Context, value: Any) -> None:
    context.output.json_mode = True


def _set_store(context: Context, value: Any) -> None:
    context.store_dir = Path(value)


def _chdir(context: Context, value: Any) -> None:
    try:
        os.chdir(value)
    except OSError as error:
        raise click.BadParameter(f"{value}: {error.strerror}", param_hint="-C") from error


def _louder(context: Context, value: Any) -> None:
    context.output.verbosity = int(value)


def _quiet(context: Context, value: Any) -> None:
    context.output.verbosity = -1


def _set_color(context: Context, value: Any) -> None:
    context.output.color = value


def _set_offline(context: Context, value: Any) -> None:
    context.offline = True
