"""How `eka store` reads its arguments: store paths as people have them, bytes from a pipe.

A store path may be given whole, as its last part alone, or as a file system path that leads
through a symbolic link into /nix/store (`./result/bin/x`). Nothing is looked up in a store here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from typing import TYPE_CHECKING, Any

from eka_runtime import printable as words
from eka_runtime.errors import EkaError, InvalidStorePath, UsageError

if TYPE_CHECKING:
    from eka_runtime.nix.path import StorePath
    from eka_runtime.nix.tokens import Read

_MAX_LINKS = 40  # as the kernel's MAXSYMLINKS
_EXAMPLE = "give `/nix/store/<hash>-<name>`, its last part, or a symbolic link to it"


def store_text(argument: str) -> str:
    """The argument as `/nix/store/<hash>-<name>[/sub]`. Raises UsageError when it is none."""
    from eka_runtime.nix.path import STORE_DIR, StorePath

    if argument.startswith(STORE_DIR + "/"):
        return argument
    # A file of this name in the working directory is what a shell user means.
    if linked := _through_links(argument, STORE_DIR + "/"):
        return linked
    base, slash, inside = argument.partition("/")
    try:
        return f"{StorePath.from_base(base)}{slash}{inside}"
    except InvalidStorePath as error:
        raise UsageError(f"`{argument}` is not a store path", hint=_EXAMPLE) from error


def store_path(argument: str) -> StorePath:
    """A store path itself; UsageError for something inside one."""
    from eka_runtime.nix.path import split

    path, inside = split(store_text(argument))
    if inside:
        raise UsageError(
            f"`{argument}` is inside a store path",
            hint=f"this command takes whole paths: {path}",
        )
    return path


def _through_links(argument: str, store: str) -> str | None:
    """Follows the links of a path up to the first that points into the store."""
    place, rest = "", argument.split("/")
    links = 0
    while rest:
        part = rest.pop(0)
        place = f"{place}/{part}" if place else part or "/"
        if not part or not os.path.islink(place):
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        target = os.readlink(place)
        if target.startswith(store):
            return "/".join([target.rstrip("/"), *rest])
        place, rest = os.path.dirname(place), target.split("/") + rest
        if target.startswith("/"):
            place = ""
    return None


@contextmanager
def input_bytes(file: str) -> Iterator[Read]:
    """Yields `read(n)`; `-` is stdin, which may not be a terminal."""
    if file != "-":
        with _opened(file) as stream:
            yield lambda size: stream.read(size) or b""
        return
    if sys.stdin.isatty():
        raise UsageError(
            "an export stream is binary and stdin is a terminal",
            hint="name a file, or pipe: `nix-store --export PATH… | eka store import`",
        )
    stdin: Any = sys.stdin.buffer
    yield stdin.read1


def _opened(file: str) -> FileIO:
    try:
        return open(file, "rb", buffering=0)
    except OSError as error:
        raise UsageError(f"cannot read `{file}`: {error.strerror}") from error


def refuse_terminal(what: str, example: str) -> None:
    """Binary data would only garble a terminal."""
    if sys.stdout.isatty():
        raise UsageError(
            f"{what} is binary and stdout is a terminal", hint=f"redirect: `{example}`"
        )


def printable(name: bytes) -> str:
    """A name from a store: exact for pipes, without control characters for terminals."""
    text = os.fsdecode(name)
    return words.printable(text) if sys.stdout.isatty() else text


def no_such_chain(start: StorePath, goal: StorePath) -> EkaError:
    return EkaError(f"`{start}` does not refer to `{goal}`, directly or indirectly")
