"""`eka log`: the log of a build, or what ran here, from the ledger."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from eka.completing import store_paths
from eka.context import Context

if TYPE_CHECKING:
    from eka.run_records import RunRecord


@click.command(name="log")
@click.argument("target", metavar="[PATH|DRV]", required=False, shell_complete=store_paths)
@click.option("--runs", is_flag=True, help="Show the runs that the ledger has, the newest last.")
@click.option(
    "--limit", type=click.IntRange(min=0), metavar="N", help="Only the newest N; 0 for all."
)
@click.pass_obj
def command(context: Context, target: str | None, runs: bool, limit: int | None) -> None:
    """Show the log of a build: PATH is what was built, DRV what it was built from.

    With --runs the ledger of runs, which are recorded under `--record`, or always with
    `record = true` in eka.toml.
    """
    from eka_runtime.errors import UsageError

    if runs:
        _show_runs(context, limit)
    elif target is not None:
        _show_build(context, target)
    else:
        raise UsageError(
            "nothing to show",
            hint="name what was built: `eka log ./result`; or see what ran: `eka log --runs`",
        )


def _show_build(context: Context, target: str) -> None:
    from eka.commands.store_arguments import store_path
    from eka_runtime.build.log import write_log

    with context.open_store(create=False) as store:
        write_log(store, store_path(target), context.output.bytes)


def _show_runs(context: Context, limit: int | None) -> None:
    from eka.output import table
    from eka.run_records import read_runs

    # A person wants the last ones, a program all.
    default = None if context.json else 20
    found = read_runs(os.environ, default if limit is None else limit or None)
    if context.json:
        for record in found.records:
            context.output.json(record.model_dump(exclude_none=True))
    elif found.records:
        header = ("START", "TIME", "END", "MEMORY", "TIER", "WHAT")
        for line in table([_row(record) for record in found.records], header):
            context.output.data(line)
    else:
        context.output.message("no runs are recorded; `--record` or `record = true` begins that")
    if found.unreadable:
        context.output.warning(f"{found.unreadable} lines of the ledger make no sense")


def _row(record: RunRecord) -> tuple[str, ...]:
    from eka.output import human_size
    from eka_runtime.printable import printable

    end = str(record.status) if record.signal is None else f"signal {record.signal}"
    tier = f"{record.tier}, unsandboxed" if record.unsandboxed else record.tier
    # A name may hold what a terminal would obey.
    name = printable(record.file, "\N{REPLACEMENT CHARACTER}")
    when = record.start[:19].replace("T", " ")
    return (when, f"{record.wall:.3f} s", end, human_size(record.peakMemory), tier, name)
