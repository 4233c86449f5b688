"""The options of every command that starts or describes a bundle: packages and grants."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from eka.completing import files, packages, variables

if TYPE_CHECKING:
    from eka.script.flags import Flags


class Asked(NamedTuple):
    package: tuple[str, ...]
    interpreter: str | None
    net: bool
    network: str | None
    read: tuple[str, ...]
    write: tuple[str, ...]
    env: tuple[str, ...]
    view: str | None
    device: tuple[str, ...]
    home: str | None
    limit: tuple[str, ...]
    nesting: bool
    profile: str | None

    def flags(self) -> Flags:
        """As `eka-run` would have read them from its command line."""
        from eka.script.flags import parse_flags

        words = [word for value in self.package for word in ("-p", value)]
        words += ["-i", self.interpreter] if self.interpreter else []
        words += ["--net"] if self.net else []
        words += ["--view", self.view] if self.view else []
        words += ["--profile", self.profile] if self.profile else []
        words += ["--network", self.network] if self.network else []
        words += ["--home", self.home] if self.home else []
        words += ["--nesting"] if self.nesting else []
        for name in ("read", "write", "env", "device", "limit"):
            words += [f"--{name}={value}" for value in getattr(self, name)]
        return parse_flags(words)[0]


def grant_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the function gets them as `asked`."""

    @functools.wraps(function)
    def wrapper(*args: Any, **values: Any) -> Any:
        asked = Asked(*(values.pop(name) for name in Asked._fields))
        return function(*args, asked=asked, **values)

    for option in (
        click.option(
            "--view",
            type=click.Choice(("auto", "bind", "overlay", "fuse")),
            help="How the store is shown.",
        ),
        click.option(
            "--device", multiple=True, metavar="PATH", help="Show a device such as /dev/kvm."
        ),
        click.option(
            "--home",
            type=click.Choice(["private", "persistent", "none"]),
            help="An empty home for each run, one that the script keeps, or none.",
        ),
        click.option(
            "--limit",
            multiple=True,
            metavar="NAME=N",
            help="Limit memory, pids, cpu, time, files or file-size.",
        ),
        click.option(
            "--profile", metavar="FILE", shell_complete=files, help="A sandbox profile of your own."
        ),
        click.option(
            "--nesting", is_flag=True, help="Let it make namespaces and mounts of its own."
        ),
        click.option(
            "--env",
            multiple=True,
            metavar="NAME[=V]",
            shell_complete=variables,
            help="Pass a variable on, or set it.",
        ),
        click.option(
            "--write",
            multiple=True,
            metavar="PATH",
            shell_complete=files,
            help="Show PATH, writable.",
        ),
        click.option(
            "--read",
            multiple=True,
            metavar="PATH",
            shell_complete=files,
            help="Show PATH, read-only.",
        ),
        click.option(
            "--network",
            type=click.Choice(["off", "loopback", "host"]),
            help="None (the default), a loopback of its own, or the host's.",
        ),
        click.option("--net", is_flag=True, help="Grant the host's network."),
        click.option("-i", "--interpreter", metavar="I", help="Program that runs a script."),
        click.option(
            "-p",
            "--package",
            multiple=True,
            metavar="P",
            shell_complete=packages,
            help="Store path, or link to one.",
        ),
    ):
        wrapper = option(wrapper)
    return wrapper
