"""The commands of `eka store` that look and never change anything.

stdout is one line per item, or one JSON object per line with `--json`. Names from a store are
bytes: they go out unchanged to a pipe, without control characters to a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from eka.completing import store_paths, store_places
from eka.context import Context

if TYPE_CHECKING:
    from eka_runtime.castore.node import Node
    from eka_runtime.nix.path import StorePath
    from eka_runtime.store.artifacts import Artifact
    from eka_runtime.store.pathinfo import PathInfo
    from eka_runtime.store.store import Store


@click.command()
@click.argument("path", metavar="PATH[/SUB]", shell_complete=store_places)
@click.option("-R", "--recursive", is_flag=True, help="Also what is below.")
@click.option("-l", "--long", "long", is_flag=True, help="Modes, sizes and link targets.")
@click.pass_obj
def ls(context: Context, path: str, recursive: bool, long: bool) -> None:
    """List a directory inside a path, in byte order of names."""
    from eka.commands.store_arguments import printable, store_text

    with context.open_store(create=False) as store:
        text = store_text(path)
        _, node = store.resolve(text)
        for name, child in _listing(store, text, node, recursive):
            if context.json:
                context.output.json(
                    {"path": name.decode("utf-8", "surrogateescape"), **facts(child)}
                )
            else:
                line = printable(name)
                context.output.data(_long_line(child, line) if long else line)


def _listing(store: Store, text: str, node: Node, recursive: bool) -> Iterator[tuple[bytes, Node]]:
    """Names relative to what was asked for; a file or link lists itself."""
    from eka_runtime.castore.node import DirectoryNode
    from eka_runtime.castore.services import require_directory

    if not isinstance(node, DirectoryNode):
        yield text.rstrip("/").rpartition("/")[2].encode("utf-8", "surrogateescape"), node
        return
    # A stack of iterators, not recursion: trees may be deeper than Python's stack.
    stack = [(b"", iter(require_directory(store.directories, node.digest).entries))]
    while stack:
        prefix, entries = stack[-1]
        for name, child in entries:
            yield prefix + name, child
            if recursive and isinstance(child, DirectoryNode):
                below = iter(require_directory(store.directories, child.digest).entries)
                stack.append((prefix + name + b"/", below))
                break
        else:
            stack.pop()


def _long_line(node: Node, name: str) -> str:
    from eka.commands.store_arguments import printable
    from eka_runtime.castore.node import DirectoryNode, FileNode

    if isinstance(node, DirectoryNode):
        return f"dr-xr-xr-x {'-':>12} {name}"
    if isinstance(node, FileNode):
        return f"{'-r-xr-xr-x' if node.executable else '-r--r--r--'} {node.size:>12} {name}"
    return f"lrwxrwxrwx {len(node.target):>12} {name} -> {printable(node.target)}"


def facts(node: Node) -> dict[str, object]:
    """A castore node for JSON; `size` of a directory is castore's count, not bytes."""
    from eka_runtime.castore.node import DirectoryNode, FileNode

    if isinstance(node, DirectoryNode):
        return {"type": "directory", "digest": str(node.digest), "size": node.size}
    if isinstance(node, FileNode):
        return {
            "type": "regular",
            "digest": str(node.digest),
            "size": node.size,
            "executable": node.executable,
        }
    return {"type": "symlink", "target": node.target.decode("utf-8", "surrogateescape")}


@click.command()
@click.argument("path", metavar="PATH[/SUB]", shell_complete=store_places)
@click.pass_obj
def cat(context: Context, path: str) -> None:
    """Write a file inside a path to stdout."""
    from eka.commands.store_arguments import store_text

    with context.open_store(create=False) as store:
        store.write_file(store_text(path), context.output.bytes)


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=store_paths)
@click.pass_obj
def info(context: Context, paths: tuple[str, ...]) -> None:
    """Show what the store knows of paths: hashes, sizes, references, deriver, artifacts."""
    from eka.commands.store_arguments import store_path
    from eka_runtime.store.artifacts import Artifacts

    wanted = [store_path(path) for path in paths]
    with context.open_store(create=False) as store:
        for found in [store.info(path) for path in wanted]:
            made = Artifacts(store.database).of(found.path)
            record = describe(found, store.closure_size([found.path]), made)
            if context.json:
                context.output.json(record)
            else:
                _print_record(context, record)


def describe(
    found: PathInfo, closure_size: int, artifacts: Iterable[Artifact]
) -> dict[str, object]:
    """Nix's keys, the castore root node as `node`, and `artifacts` that it is an output of."""
    from eka_runtime.nix.hashes import NixHash

    return {
        "path": str(found.path),
        "narHash": NixHash("sha256", found.nar_hash).sri(),
        "narSize": found.nar_size,
        "references": [str(path) for path in found.references],
        "deriver": found.deriver and str(found.deriver),
        "signatures": list(found.signatures),
        "ca": found.ca,
        "closureSize": closure_size,
        "registrationTime": found.registered,
        "node": facts(found.node),
        "artifacts": [
            {
                "artifactId": one.id,
                "atom": one.atom,
                "label": one.label,
                "version": one.version,
                "configHash": one.config,
            }
            for one in artifacts
        ],
    }


def _print_record(context: Context, record: dict[str, object]) -> None:
    for key, value in record.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                shown = _node_line(item) if isinstance(item, dict) else item
                context.output.data(f"{key}: {shown}")


def _node_line(node: dict[str, object]) -> str:
    flags = {True: "executable", False: ""}
    words = (flags[part] if isinstance(part, bool) else str(part) for part in node.values())
    return " ".join(filter(None, words))


@click.command("list")
@click.pass_obj
def list_(context: Context) -> None:
    """List all valid paths."""
    with context.open_store(create=False) as store:
        _print_paths(context, (found.path for found in store.paths.all()))


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=store_paths)
@click.pass_obj
def closure(context: Context, paths: tuple[str, ...]) -> None:
    """List paths and all that they refer to, directly or not."""
    from eka.commands.store_arguments import store_path

    wanted = [store_path(path) for path in paths]
    with context.open_store(create=False) as store:
        _print_paths(context, store.closure(wanted))


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=store_paths)
@click.pass_obj
def referrers(context: Context, paths: tuple[str, ...]) -> None:
    """List the paths that refer to these directly."""
    from eka.commands.store_arguments import store_path

    wanted = [store_path(path) for path in paths]
    with context.open_store(create=False) as store:
        found = {referrer for path in wanted for referrer in store.referrers(path)}
        _print_paths(context, sorted(found))


@click.command()
@click.argument("start", metavar="A", shell_complete=store_paths)
@click.argument("goal", metavar="B", shell_complete=store_paths)
@click.pass_obj
def why(context: Context, start: str, goal: str) -> None:
    """Show a shortest chain of references from A to B, if A needs B."""
    from eka.commands.store_arguments import no_such_chain, store_path

    first, last = store_path(start), store_path(goal)
    with context.open_store(create=False) as store:
        chain = store.why(first, last)
    if not chain:
        raise no_such_chain(first, last)
    _print_paths(context, chain)


def _print_paths(context: Context, paths: Iterable[StorePath]) -> None:
    for path in paths:
        if context.json:
            context.output.json({"path": str(path)})
        else:
            context.output.data(str(path))


@click.command()
@click.pass_obj
def du(context: Context) -> None:
    """Show what the store holds, what it takes on disk, and what sharing saves."""
    from eka.output import human_size
    from eka_runtime.store.usage import measure

    with context.open_store(create=False) as store:
        usage = measure(store)
    if context.json:
        context.output.json(usage.record())
        return
    saved = f"{usage.saved_fraction:.0%}" if usage.nar_bytes else "nothing yet"
    context.output.data(f"paths    {usage.paths}, {human_size(usage.nar_bytes)} as NARs")
    context.output.data(f"blobs    {usage.blobs}, {human_size(usage.blob_bytes)}")
    context.output.data(f"on disk  {human_size(usage.disk_bytes)}")
    for part, size in usage.disk.items():
        context.output.data(f"         {human_size(size):>10}  {part}")
    if usage.unneeded_bytes:
        context.output.data(f"waiting  {human_size(usage.unneeded_bytes)} for `eka store gc`")
    context.output.data(f"saved    {saved}")
