"""The options of every command that evaluates: configuration, variants, systems."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from eka.completing import files

if TYPE_CHECKING:
    from eka.evaluate.config import Choices


class Configured(NamedTuple):
    config_set: tuple[str, ...]
    variant: tuple[str, ...]
    config_file: tuple[str, ...]
    system: str | None
    build_system: str | None
    host_system: str | None
    target_system: str | None

    @property
    def stated(self) -> bool:
        return any(self)

    def choices(self) -> Choices:
        """Raises OptionError."""
        from eka.evaluate.config import Systems, choices_of

        systems = Systems(*(getattr(self, name) or "" for name in _SYSTEMS))
        return choices_of(self.config_file, self.config_set, self.variant, systems)


_SYSTEMS = ("system", "build_system", "host_system", "target_system")


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the function gets them as `configured`."""

    @functools.wraps(function)
    def wrapper(*args: Any, **values: Any) -> Any:
        configured = Configured(*(values.pop(name) for name in Configured._fields))
        return function(*args, configured=configured, **values)

    for option in (
        click.option("--target-system", metavar="S", help="Where what it builds makes code for."),
        click.option("--host-system", metavar="S", help="Where what it builds runs."),
        click.option("--build-system", metavar="S", help="Where it is built."),
        click.option("--system", metavar="S", help="All three of these."),
        click.option(
            "--config-file",
            multiple=True,
            metavar="F",
            shell_complete=files,
            help="Values from a TOML or JSON file.",
        ),
        click.option("--variant", multiple=True, metavar="NAME", help="Values of a variant."),
        click.option(
            "--set",
            "config_set",
            multiple=True,
            metavar="KEY=VALUE",
            help="A value, as TOML writes it.",
        ),
    ):
        wrapper = option(wrapper)
    return wrapper
