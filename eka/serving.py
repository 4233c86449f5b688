"""What commands that serve until they are ended have in common."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from eka.context import Context

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def announce(context: Context, url: str, **more: str) -> None:
    """Says on stdout that clients may come; `more` is for programs only."""
    if context.json:
        context.output.json({"url": url, **more})
    else:
        context.output.data(url)
    sys.stdout.flush()


@contextmanager
def until_signal() -> Iterator[threading.Event]:
    """The first signal asks for an end, which has its time; another one does not wait for it."""
    ended = threading.Event()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def end(number: int, frame: object) -> None:
        for other in _SIGNALS:
            signal.signal(other, before[other])
        ended.set()

    for number in _SIGNALS:
        signal.signal(number, end)
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
