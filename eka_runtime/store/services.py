"""What every place that knows path infos can do; the rest of the seam is `castore/services.py`.

The contract is the same: `None` means "not here", an error that the service could not tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from eka_runtime.store.pathinfo import PathInfo


class PathInfoService(Protocol):
    def by_hash(self, digits: str) -> PathInfo | None:
        """`digits` are the 32 nixbase32 digits of a store path; the name is not compared."""

    def put(self, info: PathInfo) -> PathInfo:
        """Returns what is recorded, which may have more signatures."""

    def all(self) -> Iterator[PathInfo]: ...
