"""`eka nix -- COMMAND`: any of Nix's commands, in a bundle with the store and a daemon for it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from eka.commands.grants import Asked, grant_options
from eka.context import Context
from eka.workbench import workbench

if TYPE_CHECKING:
    from eka.fetching import Reach
    from eka.named_daemon import NamedDaemon
    from eka.wanted import Wanted
    from eka_runtime.store.store import Store
    from eka_runtime.view.plan import ViewPlan

_SOCKET = "/nix/daemon.sock"
_TOOLS = "/nix/tools"


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--record", is_flag=True, help="Note the run in the ledger.")
@click.option("--require-sandbox", is_flag=True, help="Refuse a weaker sandbox.")
@click.option(
    "--daemon",
    "daemon_url",
    metavar="URL",
    help="Use a daemon that runs already, and its store: `unix:///SOCKET[?root=DIR]`.",
)
@click.argument("tool", metavar="COMMAND")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARG]…")
@grant_options
@click.pass_obj
def command(
    context: Context,
    asked: Asked,
    tool: str,
    arguments: tuple[str, ...],
    record: bool,
    require_sandbox: bool,
    daemon_url: str | None,
) -> NoReturn:
    """Run a Nix COMMAND (nix-build, nix-instantiate, nix-store, nix …) over eka's store.

    No /nix is needed on this host. Nix itself comes from the store if it is there, else from the
    host. The working directory is writable; `--read`, `--write` and `--net` grant more.
    """
    from eka.beside import served, with_socket
    from eka.launching import get_ready, require_full_sandbox
    from eka.named_daemon import named_daemon

    named = named_daemon(daemon_url, context.settings())

    def wanted(reach: Reach) -> tuple[Wanted, None]:
        if named is not None:
            return _wanted_at(named, asked, tool), None
        return _wanted(context, asked, tool, reach.store), None

    with get_ready(
        wanted, context.store_dir, context.output, offline=context.offline, record=record
    ) as (ready, _):
        if require_sandbox:
            require_full_sandbox(ready)
        if named is not None:
            os._exit(ready.start(arguments, context.output))
        with served(ready.store.layout, context.output.warning, workbench(context)) as server:
            status = ready.start(
                arguments,
                context.output,
                change=lambda plan: with_socket(plan, server.place),
                ended=lambda status: server.close(),
            )
        _keep_profiles(context)
        os._exit(status)


def _show_all(context: Context, store: Store) -> None:
    from eka_runtime.view.live import LiveView

    store.require_writable()
    with context.output.progress("showing the store", total=store.paths.count()) as update:
        LiveView(store).show_all(lambda done: update(done, 0))


def _wanted(context: Context, asked: Asked, tool: str, store: Store) -> Wanted:
    from eka.nix_tools import nix_tools
    from eka.packages import PackageRef
    from eka.wanted import Program, from_flags

    flags = asked.flags()
    stated = from_flags(flags, profile="nix")
    packages = stated.packages
    if not any("-nix-" in ref.text for ref in packages):
        own = PackageRef(str(nix_tools(store, os.environ).path), "eka nix", Path.cwd())
        packages = (*packages, own)
    home = stated.home or (("persistent", "eka nix") if _has_place_for_home(stated) else None)
    return stated._replace(
        packages=packages,
        program=Program((tool,), "eka nix"),
        home=home,
        keeper="nix",
        own_view=lambda opened: _view(context, opened),
    )


def _wanted_at(named: NamedDaemon, asked: Asked, tool: str) -> Wanted:
    """With the store of another daemon, in which nothing of ours is: Nix stands beside it."""
    from eka.nix_tools import COMMANDS
    from eka.wanted import Program, from_flags
    from eka_runtime.errors import UsageError

    stated = from_flags(asked.flags(), profile="nix")
    if stated.packages:
        raise UsageError(
            f"`-p {stated.packages[0].text}` is in eka's store, and another daemon's is shown",
            hint="drop `-p`, or use eka's own daemon: `--daemon own`",
        )
    home = stated.home or (("persistent", "eka nix") if _has_place_for_home(stated) else None)
    path = (f"PATH={_TOOLS}/bin:/bin:/usr/bin", "eka nix")
    return stated._replace(
        program=Program((f"{_TOOLS}/bin/{tool}" if tool in COMMANDS else tool,), "eka nix"),
        env=(path, *stated.env),
        home=home,
        # What is in a home has links into one store.
        keeper=f"nix-{hashlib.blake2b(os.fsencode(named.store), digest_size=10).hexdigest()}",
        own_view=lambda opened: _view_at(named, opened),
    )


def _view_at(named: NamedDaemon, store: Store) -> ViewPlan:
    from eka.nix_tools import host_nix_tools
    from eka_runtime.nix.path import STORE_DIR
    from eka_runtime.view.bind import BindView
    from eka_runtime.view.plan import ViewMount, ViewPlan

    tools = host_nix_tools(store, os.environ)
    BindView(store).check_out([tools])
    mounts = (
        ViewMount(os.fspath(named.socket), _SOCKET, False),
        ViewMount(os.fspath(named.store), STORE_DIR, True),
        ViewMount(os.fspath(store.layout.bind_view / tools.path.base), _TOOLS, True),
    )
    return ViewPlan("named", mounts, ())


def _has_place_for_home(wanted: Wanted) -> bool:
    from eka.prepare import current_caller
    from eka_runtime.oci.grants import within
    from eka_runtime.oci.mounts import inner_home

    home = current_caller().home
    granted = (os.path.expanduser(text) for text, _ in (*wanted.read, *wanted.write))
    shown = any(within(home, os.path.normpath(place)) for place in granted)
    return not shown and inner_home("private", home) == home


def _view(context: Context, store: Store) -> ViewPlan:
    from eka.beside import SOCKET
    from eka_runtime.view.live import LiveView
    from eka_runtime.view.plan import ViewMount

    _show_all(context, store)
    plan = LiveView(store).plan()
    return plan._replace(mounts=(*plan.mounts, ViewMount(SOCKET, _SOCKET, False)))


def _keep_profiles(context: Context) -> None:
    """What `nix-env` and others made in Nix's state directory are roots, as with Nix itself."""
    from eka.config import data_dir
    from eka_runtime.store.roots import link_root, path_behind

    state = data_dir(os.environ) / "home" / "nix" / ".local/state/nix"
    links = [
        os.path.join(at, name) for at, below, names in os.walk(state) for name in (*names, *below)
    ]
    found = [link for link in links if os.path.islink(link) and path_behind(os.fsencode(link))]
    if found:
        with context.open_store() as store:
            for link in found:
                store.roots.add(link_root(link))
