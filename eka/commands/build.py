"""`eka build`: realises derivations, each in a bundle of its own."""

from __future__ import annotations

import os
from typing import Any

import click

from eka.commands.configured import Configured, config_options
from eka.completing import packages
from eka.context import Context

_SECONDS = click.FloatRange(min=0)


@click.command(name="build")
@click.argument("targets", metavar="[TARGET]…", nargs=-1, shell_complete=packages)
@click.option("-o", "--out-link", default="result", metavar="LINK", help="Name of the link.")
@click.option("--no-link", is_flag=True, help="Make no link; what is built may be collected.")
@click.option(
    "-j", "--max-jobs", type=click.IntRange(min=1), metavar="N", help="Build so many at once."
)
@click.option(
    "--cores", type=click.IntRange(min=0), default=0, metavar="N", help="For each builder; 0: all."
)
@click.option("-k", "--keep-going", is_flag=True, help="Build what can be after a failure.")
@click.option("-K", "--keep-failed", is_flag=True, help="Keep the bundles of failed builds.")
@click.option("--check", is_flag=True, help="Build again, and compare bit for bit.")
@click.option("-L", "--print-build-logs", "logs", is_flag=True, help="Show the logs.")
@click.option("--dry-run", is_flag=True, help="Only say what would be built.")
@click.option("--timeout", type=_SECONDS, default=0, metavar="SECONDS", help="End a build after.")
@click.option(
    "--max-silent-time",
    type=_SECONDS,
    default=0,
    metavar="SECONDS",
    help="End a build that is silent.",
)
@click.option(
    "--max-log-size",
    type=click.IntRange(min=0),
    metavar="BYTES",
    help="End a build that logs more.",
)
@click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="As in `eka-run`.")
@click.option("--system-features", metavar="NAMES", help="What this machine has; adds to its own.")
@click.option("--extra-platforms", metavar="SYSTEMS", help="What this machine builds for, too.")
@click.option("--allow-no-chroot", is_flag=True, help="Let `__noChroot` see the host, read-only.")
@click.option("--nesting", is_flag=True, help="Let builders make namespaces of their own.")
@config_options
@click.pass_obj
def command(
    context: Context, /, targets: tuple[str, ...], configured: Configured, **options: Any
) -> None:
    """Build TARGETs: atoms and expressions (`.`, `.#attr`, FILE.nix, a URI; `.` if none is named),
    or derivations in the store, with `^OUTPUT,…` for some of their outputs.

    Prints the paths of the outputs, and links to them from ./result.
    """
    from eka.realising import Options, realise

    choices = configured.choices() if configured.stated else None
    realise(context, targets or (".",), Options(**options), os.environ, choices)
