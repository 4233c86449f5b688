"""What everything that is closed has in common, so that `with` closes it."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """To be inherited by what has a `close` of its own."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
