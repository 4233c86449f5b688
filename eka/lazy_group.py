"""A click group whose sub-commands are a table: each is imported only when it is called.

Importing all commands would be most of what a command costs. The price is that a line of help for
each stands in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from eka.common_options import with_common_options

Table = Mapping[str, tuple[str, str, str]]
"""name -> (module, attribute, one line for --help)"""


class LazyGroup(click.Group):
    """Knows its sub-commands by name and help line."""

    def __init__(self, *args: Any, table: Table, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        module, attribute, _ = self._table[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        command.name = cmd_name
        return with_common_options(command)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """As click's, which would import every sub-command for its help line."""
        names = [name for name in self._table if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self._table[name][2]) for name in names]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in self._table.items()])
