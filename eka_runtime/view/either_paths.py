"""The path infos of two services, of which neither is changed.

For showing what is far before it is here: near cannot have a path info without its contents, as
`LayeredPathInfos` would.
"""

from __future__ import annotations

from collections.abc import Iterator

from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.view.castore_fs import KnownPaths


class EitherPaths:
    """Near is asked first; `all` gives each path once."""

    def __init__(self, near: KnownPaths, far: KnownPaths) -> None:
        self._near = near
        self._far = far

    def by_hash(self, digits: str) -> PathInfo | None:
        return self._near.by_hash(digits) or self._far.by_hash(digits)

    def all(self) -> Iterator[PathInfo]:
        known = set()
        for info in self._near.all():
            known.add(info.path.hash)
            yield info
        for info in self._far.all():
            if info.path.hash not in known:
                yield info
