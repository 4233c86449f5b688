"""SQLite's own check of a database, which may go on beside other things."""

from __future__ import annotations

import sqlite3
import threading

from eka_runtime.castore.database import Database
from eka_runtime.closing import Closing
from eka_runtime.errors import EkaError


class Integrity(Closing):
    """Deep: every row and every index, in a thread of its own where one is to be had.

    Leaving the context ends it; shallow, it is over at once.
    """

    def __init__(self, database: Database, *, deep: bool) -> None:
        self._database = database
        self._statement = f"pragma {'integrity' if deep else 'quick'}_check"
        self._messages: list[str] = []
        self._error: EkaError | sqlite3.DatabaseError | None = None
        self._connection: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._ask, name="eka-integrity")
        if not (deep and self._started()):
            self._ask()

    def problems(self) -> list[str]:
        """What it found; waits for it. Raises EkaError and DatabaseErrors."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return [message for message in self._messages if message != "ok"]

    def close(self) -> None:
        while self._thread.is_alive():
            if self._connection is not None:
                self._connection.interrupt()
            self._thread.join(0.01)

    def _started(self) -> bool:
        try:
            self._thread.start()
        except RuntimeError:
            return False
        return True

    def _ask(self) -> None:
        try:
            self._connection = self._database.connection
            self._messages += [one for (one,) in self._connection.execute(self._statement)]
        except (EkaError, sqlite3.DatabaseError) as error:
            self._error = error
