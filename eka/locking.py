"""Writes the lock of a script: resolves what it states, and pins the closure by NAR hashes.

Constraint: a lock appears whole or not at all, is left alone when it would not change, and never
replaces a file that is none. Out of scope: its text (`eka/script/lock.py`), its use
(`eka/locked.py`).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from eka.fetching import Reach
from eka.locked import Statement, difference, read_lock
from eka.packages import package_path
from eka.replacing import replace_file
from eka.script.flags import Flags
from eka.script.lock import Content, Lock, is_ours, parse_lock, render_lock
from eka.wanted import from_file
from eka_runtime.errors import LockError
from eka_runtime.store.roots import root_for
from eka_runtime.store.store import Store


class Draft(NamedTuple):
    """A lock as it should be at `place`; `renewal` is the command that writes it."""

    place: str
    lock: Lock
    statement: Statement

    @property
    def data(self) -> bytes:
        return render_lock(self.lock)


def draft(file: str, flags: Flags, reach: Reach) -> Draft:
    """Fetches what the store lacks. Raises what resolving raises."""
    wanted, _ = from_file(file, flags, reach, use_lock=False)
    # The packages as they are written, though several may lead to one store path.
    packages = [package_path(ref, reach) for ref in wanted.packages]
    reach.fetch(packages)
    statement = wanted.statement
    assert statement is not None  # only a target that is no file has none
    roots = [*packages, *(info.path for info in wanted.roots)]
    infos = map(reach.store.info, reach.store.closure(roots))
    lock = Lock(
        statement.interpreter,
        None
        if statement.packages is None
        else tuple(zip(statement.packages, packages, strict=True)),
        tuple(info.path for info in wanted.roots) if statement.packages is None else None,
        {info.path: Content.of(info) for info in infos},
    )
    return Draft(statement.lock, lock, statement)


def write(made: Draft, store: Store) -> bool:
    """Whether it changed. The lock becomes a root of the store in any case.

    Raises LockError for a file that is no lock, or that cannot be written.
    """
    old = read_lock(made.place)
    if old is not None and old and not is_ours(old):
        raise LockError(
            f"`{made.place}` is not a lock that eka wrote",
            hint="move it away, or give the script another name",
        )
    if changed := old != made.data:
        _replace(made.place, made.data)
    if store.writable and made.lock.closure:
        store.roots.add(root_for(made.place, None))
    return changed


def check(made: Draft) -> None:
    """Raises LockError unless the lock on disk is what would be written."""
    old = read_lock(made.place)
    hint = f"write it with `{made.statement.renewal}`"
    if old is None:
        raise LockError(f"`{made.place}` is missing", hint=hint)
    if old == made.data:
        return
    lock = parse_lock(old, made.place)
    reason = difference(lock, made.statement) or _other_paths(lock, made.lock)
    raise LockError(f"`{made.place}` is stale: {reason}", hint=hint)


def _other_paths(old: Lock, new: Lock) -> str:
    for (text, before), (_, now) in zip(old.packages or (), new.packages or (), strict=False):
        if before != now:
            return f"the package `{text}` is `{now}`, not `{before}`"
    for path, content in sorted(new.closure.items()):
        if path not in old.closure:
            return f"`{path}` is new in the closure"
        if old.closure[path] != content:
            return f"`{path}` has the NAR hash {content.sri()}, not {old.closure[path].sri()}"
    gone = sorted(old.closure.keys() - new.closure.keys())
    return f"`{gone[0]}` is not in the closure any more" if gone else "its text is not canonical"


def _replace(place: str, data: bytes) -> None:
    try:
        replace_file(place, data)
    except OSError as error:
        raise LockError(
            f"cannot write `{place}`: {error.strerror}",
            hint=f"make `{os.path.dirname(place)}` writable",
        ) from error
