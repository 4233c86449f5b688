"""`eka daemon`: the store for Nix clients, in Nix's own protocol, until a signal ends it.

When it can be used, stdout carries one line: the store URL for clients.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from eka.context import Context
from eka.serving import announce, until_signal
from eka.workbench import workbench

if TYPE_CHECKING:
    from eka_runtime.cache.supply import Supply
    from eka_runtime.store.store import Store
    from eka_runtime.view.live import LiveView


@click.command()
@click.option(
    "--socket",
    "place",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where to listen; if not stated, in $XDG_RUNTIME_DIR.",
)
@click.option("--stdio", is_flag=True, help="Serve one client on stdin and stdout, as ssh has it.")
@click.pass_obj
def command(context: Context, place: Path | None, stdio: bool) -> None:
    """Serve the store to Nix until Ctrl-C; its URL is printed when it can be used.

    Takes over the socket of a service manager, if there is one.
    """
    from eka_runtime.daemon.server import serve_stdio
    from eka_runtime.errors import UsageError

    if stdio and place:
        raise UsageError("`--stdio` needs no socket", hint="drop `--socket` or `--stdio`")
    if stdio:
        # Fails here, and not at the client, when it cannot be opened.
        context.open_store().close()
        with _supply(context) as supply:
            serve_stdio(context.open_store, workbench(context), supply)
        return
    with _socket(place) as (where, listening), _shown(context) as (root, view):
        _serve(context, where, listening, root, view)


@contextmanager
def _shown(context: Context) -> Iterator[tuple[Path, type[LiveView]]]:
    """The root directory where clients find files, with everything in it that is there by now."""
    from eka_runtime.view.live import LiveView, growing

    with context.open_store() as store:
        store.require_writable()
        view = LiveView(store)
        root = view.root()
        with context.output.progress("showing the store", total=store.paths.count()) as update:
            view.show_all(lambda done: update(done, 0))
        layout = store.layout
    with growing(layout) as lent:
        yield root, lent


@contextmanager
def _socket(place: Path | None) -> Iterator[tuple[str, socket.socket]]:
    """Where it is for clients, and the socket."""
    from eka_runtime.daemon.server import activated, listening

    handed_over = activated(os.environ)
    if handed_over is not None:
        with closing(handed_over):
            yield os.fsdecode(handed_over.getsockname()), handed_over
        return
    own = (place or _default_place()).absolute()
    with listening(own) as made:
        yield os.fspath(own), made


def _serve(
    context: Context, where: str, listening: socket.socket, root: Path, view: type[LiveView]
) -> None:
    from eka_runtime.daemon.server import Server

    settings = context.settings()

    def open_store() -> Store:
        from eka_runtime.store.store import Store

        return Store.open(settings.store)

    url = f"unix://{quote(where)}?root={quote(os.fspath(root))}"
    with _supply(context) as supply, until_signal() as ended, ThreadPoolExecutor(1) as threads:
        server = Server(
            open_store,
            listening,
            context.output.warning,
            view=view,
            workbench=workbench(context),
            supply=supply,
        )
        serving = threads.submit(server.serve)
        serving.add_done_callback(lambda done: ended.set())
        try:
            places = {"socket": where, "root": os.fspath(root), "store": os.fspath(settings.store)}
            announce(context, url, **places)
            ended.wait()
        finally:
            server.end()
        serving.result()


@contextmanager
def _supply(context: Context) -> Iterator[Supply | None]:
    """The binary caches in force, if there are any."""
    from eka.caching import access_of, answers_file, caches_in_force
    from eka_runtime.cache.supply import Supply

    settings = caches_in_force(context.settings(), offline=context.offline)
    if not settings.substituters:
        yield None
        return
    with closing(Supply(settings, access_of(settings), answers_file())) as supply:
        yield supply


def _default_place() -> Path:
    from eka_runtime.errors import UsageError

    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise UsageError(
            "there is no place for a socket: XDG_RUNTIME_DIR is not set",
            hint="name one with `--socket PATH`",
        )
    return Path(runtime) / "eka-daemon.sock"
