"""narinfos that were answered lately, as long as the database does not change.

Whoever looks up a closure asks for hundreds of narinfos, and others ask for the same ones. Nothing
is kept for long even so: now and then a question has to go the whole way, so that the store learns
when nobody is being served (`serving.py`). Bounded, since names come from strangers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

KEPT_MAX = 50_000
_SECONDS = 20.0

Known = dict[str, bytes | None]
"""By name; None where there is none."""


class Recent:
    """`version` gives a number that is another one when the database has changed.

    Found by one thread, learned by many: who looks something up takes `known` before, and puts the
    answer there after. Answers of a database that has changed since end up in a table that nobody
    reads any more.
    """

    def __init__(self, version: Callable[[], int]) -> None:
        self.known: Known = {}
        self._version = version
        self._at = -1
        self._until = 0.0

    def fresh(self) -> Known:
        """What is known of the database as it is now. Always from the same thread."""
        now, version = time.monotonic(), self._version()
        if version != self._at or now > self._until or len(self.known) >= KEPT_MAX:
            self.known = {}
            self._at, self._until = version, now + _SECONDS
        return self.known

    @staticmethod
    def learn(known: Known, name: str, body: bytes | None) -> None:
        """From any thread; `known` is what there was before the question was answered."""
        if len(known) < KEPT_MAX:
            known[name] = body
