"""What a shell may offer for a word of a command line: store paths, files, variables, roots.

Functions for click's `shell_complete`; how a shell is told is `eka/commands/completion.py`. Each is
called while a person waits with a finger on the Tab key, so the store is asked for few rows and
nothing else is looked at. Constraint: there is no one to tell of an error; nothing is offered then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

import click

from eka.context import Context
from eka_runtime.errors import EkaError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from eka_runtime.store.store import Store

    Items = list[CompletionItem[str]]

LIMIT = 500
_STORE = "/nix/store/"


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Whatever the shell itself would offer."""
    return _items([incomplete], "file")


def directories(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    return _items([incomplete], "dir")


def packages(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Store paths where the word begins as one, otherwise files: links to store paths, scripts."""
    if incomplete.startswith(_STORE):
        return store_paths(ctx, param, incomplete)
    return files(ctx, param, incomplete)


def store_paths(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """By the beginning of the hash or of the name, with /nix/store/ or without."""
    text = incomplete.removeprefix(_STORE)
    if "/" in text:
        return files(ctx, param, incomplete)
    return _items(_ask(ctx, lambda store: map(str, store.paths.beginning(text, LIMIT))))


def store_places(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """As `store_paths`, and on into directories of the store."""
    above, slash, name = incomplete.removeprefix(_STORE).rpartition("/")
    if not slash or above.startswith("."):
        return store_paths(ctx, param, incomplete)
    return _items(_ask(ctx, lambda store: _entries(store, _STORE + above, name)))


def _entries(store: Store, place: str, beginning: str) -> Iterable[str]:
    from eka_runtime.castore.node import DirectoryNode

    _, node = store.resolve(place)
    found = store.directories.get(node.digest) if isinstance(node, DirectoryNode) else None
    for raw, entry in found.entries if found else ():
        name = os.fsdecode(raw)
        if name.startswith(beginning):
            yield f"{place}/{name}{'/' if isinstance(entry, DirectoryNode) else ''}"


def roots(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    names = _ask(ctx, lambda store: [root.name for root in store.roots.all()])
    return _items([name for name in names if name.startswith(incomplete)])


def variables(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    return _items(sorted(name for name in os.environ if name.startswith(incomplete)))


def _ask(ctx: click.Context, question: Callable[[Store], Iterable[str]]) -> list[str]:
    context = ctx.find_object(Context) or Context()
    try:
        with context.open_store(create=False) as store:
            return list(islice(question(store), LIMIT))
    except EkaError:
        return []


def _items(values: list[str], kind: str = "plain") -> Items:
    from click.shell_completion import CompletionItem

    return [CompletionItem(value, type=kind) for value in values]
