"""`eka bundle run`: starts a bundle on disk, again or with another program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import click

from eka.completing import directories, files
from eka.context import Context


@click.command(name="run", context_settings={"allow_interspersed_args": False})
@click.argument(
    "bundle",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    shell_complete=directories,
)
@click.argument(
    "arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARG]…", shell_complete=files
)
@click.pass_obj
def command(context: Context, bundle: Path, arguments: tuple[str, ...]) -> NoReturn:
    """Run the bundle in DIR: its own program, or the one that the ARGs are.

    For a build that failed, `eka bundle run DIR /bin/sh` is a shell inside. The status is the
    program's own.
    """
    from eka.launching import find_host
    from eka_runtime.runtime.launch import run_bundle

    os._exit(run_bundle(bundle, find_host(context.settings()), arguments or None))
