"""`eka bench [NAME…]`: eka against the peers that this host has, on this host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from eka.context import Context
from eka.output import Output

if TYPE_CHECKING:
    from eka.bench.measure import Result

_NAMES = ("start", "store")
_PEERS = ("crun", "runc", "podman", "bwrap", "nix-store")


@click.command(name="bench")
@click.argument("names", nargs=-1, metavar="[NAME]...", type=click.Choice(_NAMES))
@click.option("--full", is_flag=True, help="Eight times the data: minutes, and 12 GB of disk.")
@click.option(
    "--rounds", type=click.IntRange(1), default=40, show_default=True, help="Starts of each."
)
@click.pass_obj
def command(context: Context, names: tuple[str, ...], full: bool, rounds: int) -> None:
    """Measure starts and the store against peers: crun, runc, podman, bubblewrap, Nix.

    Each row is a ratio to a peer that was measured in the same run, in turns. Peers that are not
    installed are left out. Everything happens in a temporary directory ($TMPDIR).
    """
    from eka.bench.measure import peer

    missing = [name for name in _PEERS if peer(name) is None]
    if missing:
        context.output.message(f"left out, as not installed: {', '.join(missing)}")
    for name in names or _NAMES:
        context.output.message(f"measuring: {name}")
        for result in _measure(name, full, rounds):
            _show(context.output, result)


def _measure(name: str, full: bool, rounds: int) -> Iterator[Result]:
    if name == "start":
        from eka.bench import start

        return start.run(rounds)
    from eka.bench import store

    return store.run(full)


def _show(output: Output, result: Result) -> None:
    for line in result.left_out:
        output.warning(line)
    if output.json_mode:
        output.json({"title": result.title, "rows": result.rows, "leftOut": result.left_out})
        return
    for line in ("", result.title, *result.lines):
        output.data(line)
