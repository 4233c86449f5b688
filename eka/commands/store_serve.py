"""`eka store serve`: the store for others, until a signal ends it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from eka.context import Context
from eka.serving import announce, until_signal

if TYPE_CHECKING:
    from eka_runtime.rpc.address import Host, Socket


@click.command()
@click.option("--grpc", is_flag=True, help="Speak the gRPC protocol of snix.")
@click.option(
    "--listen",
    metavar="ADDRESS",
    help="unix:PATH or HOST:PORT; if not stated, a socket in $XDG_RUNTIME_DIR.",
)
@click.option("--read-only", is_flag=True, help="Take nothing in.")
@click.pass_obj
def serve(context: Context, grpc: bool, listen: str | None, read_only: bool) -> None:
    """Serve the store until Ctrl-C; its URL is printed when it can be used.

    Whoever reaches the address may read the store, and add to it. A socket is yours alone.
    """
    from eka_runtime.errors import UsageError

    if not grpc:
        raise UsageError(
            "`eka store serve` speaks the protocol of snix only, so far",
            hint="say so with `--grpc`; binary caches for Nix will come later",
        )
    from eka_runtime.rpc.address import parse_listen
    from eka_runtime.store.local_services import LocalServices
    from eka_runtime.store.served import serve as served

    address = listen or _default_address()
    with context.open_store(create=not read_only) as store, until_signal() as ended:
        if not read_only:
            _warn(context, parse_listen(address))
        with served(LocalServices.of(store), address, read_only=read_only) as url:
            announce(context, url)
            ended.wait()


def _default_address() -> str:
    from eka_runtime.errors import UsageError

    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise UsageError(
            "there is no place for a socket: XDG_RUNTIME_DIR is not set",
            hint="name one with `--listen unix:PATH`",
        )
    return f"unix:{runtime}/eka-store.sock"


def _warn(context: Context, address: Socket | Host) -> None:
    from eka_runtime.rpc.address import Host

    if isinstance(address, Host):
        who = "every user of this machine" if address.local else "everyone who reaches this machine"
        context.output.warning(f"{who} may add to the store; `--read-only` forbids it")
