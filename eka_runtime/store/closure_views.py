"""Views that show a whole closure at once: which there are, and when they go.

    STORE/view/{fuse,overlay}/<name>/closure    a castore Directory that has all the store paths

<name> is the nixbase32 of 20 bytes of the Directory's digest, so a closure has one of each kind. A
view goes when one of its paths does, before the contents do: an overlay leads to files of blobs.
Out of scope: what else is in a view (`eka_runtime/view/{fuse,overlay}.py`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from eka_runtime.castore.checkout import NEW_PREFIX
from eka_runtime.castore.node import Directory
from eka_runtime.castore.removal import remove_tree
from eka_runtime.errors import CastoreError
from eka_runtime.nix import base32

if TYPE_CHECKING:
    from eka_runtime.store.pathinfo import PathInfo
    from eka_runtime.store.store import Store

CLOSURE = "closure"
OLD_PREFIX = ".old-"

_NAME_BYTES = 20


def closure_of(infos: Iterable[PathInfo]) -> Directory:
    return Directory.build((info.path.base.encode(), info.node) for info in infos)


def view_name(closure: Directory) -> str:
    return base32.encode(closure.digest[:_NAME_BYTES])


def make_view(place: Path, closure: Directory, fill: Callable[[Path], object]) -> None:
    """Makes a view at `place`, whole or not at all; `fill` gets a directory to put things in.

    Raises OSError. A process that was first has made the same.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.parent / f"{NEW_PREFIX}{os.urandom(8).hex()}"
    try:
        fresh.mkdir()
        fill(fresh)
        (fresh / CLOSURE).write_bytes(closure.encode())
        os.rename(fresh, place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    finally:
        remove_tree(fresh)


def keep_closure(place: Path, closure: Directory) -> None:
    """Says again which closure a view that is there shows: it is the part that is not durable.

    Raises OSError.
    """
    data = closure.encode()
    with suppress(FileNotFoundError):
        if (place / CLOSURE).read_bytes() == data:
            return
    fresh = place / f"{NEW_PREFIX}{os.urandom(8).hex()}"
    fresh.write_bytes(data)
    os.rename(fresh, place / CLOSURE)


def drop_closure_views(store: Store, *, every: bool = False) -> None:
    """Removes those of which a path is gone, or every one; nothing that runs may use these."""
    for views in store.layout.closure_views:
        if not views.is_dir():
            continue
        for name in os.listdir(views):
            hidden = name.startswith((NEW_PREFIX, OLD_PREFIX))
            if hidden or not (every or _has_lost_a_path(store, views / name)):
                continue
            old = views / f"{OLD_PREFIX}{os.urandom(8).hex()}"
            with suppress(FileNotFoundError):
                os.rename(views / name, old)
            remove_tree(old)


def _has_lost_a_path(store: Store, view: Path) -> bool:
    try:
        closure = Directory.decode((view / CLOSURE).read_bytes())
    except (OSError, CastoreError):
        return True
    if view_name(closure) != view.name:
        # Written, but not to the disk, when the power went.
        return True
    statement = "select 1 from path where hash = ? and name = ?"
    for name, _ in closure.entries:
        digits, _, rest = name.decode(errors="replace").partition("-")
        if not store.database.connection.execute(statement, (digits, rest)).fetchone():
            return True
    return False
