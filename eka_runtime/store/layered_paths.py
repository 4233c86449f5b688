"""Path infos of two services as one."""

from __future__ import annotations

from collections.abc import Iterator

from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.services import PathInfoService


class LayeredPathInfos:
    """Near is asked first and keeps what only far had; far is never written to.

    So far's contents must be reachable wherever near's path infos are used, as they are when blobs
    and directories are layered in the same way.
    """

    def __init__(self, near: PathInfoService, far: PathInfoService) -> None:
        self._near = near
        self._far = far

    def by_hash(self, digits: str) -> PathInfo | None:
        found = self._near.by_hash(digits)
        if found is None and (found := self._far.by_hash(digits)) is not None:
            self._near.put(found)
        return found

    def put(self, info: PathInfo) -> PathInfo:
        return self._near.put(info)

    def all(self) -> Iterator[PathInfo]:
        """Of near, then what only far has."""
        yield from self._near.all()
        for info in self._far.all():
            if self._near.by_hash(info.path.hash) is None:
                yield info
