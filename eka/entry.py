"""Where `eka` starts: what is often repeated is tried before click is imported, or `site` even.

The stub (`stub/eka-run`) calls `quick` for lines that may be answered at once, in a Python without
site-packages, which then gives way to an ordinary one; `main` is for all others.
"""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

GARBAGE = 50_000
"""Objects beyond those freed at once, after which Python looks for cycles; by default 700."""

# Of `eka store`.
_PLAIN = (["add"], ["import"], ["export"], ["verify"])

WHOLE = b"from eka.entry import main; main()"


def quick() -> NoReturn:
    """`eka eval …`, `eka run …`, `eka store closure …`; sys.argv[1] is where this package is."""
    from eka import warm

    warm.die_of_interrupts()
    words = sys.argv[2:]
    # A shell that asks for completions is for click to answer.
    if b"_EKA_COMPLETE" not in posix.environ:
        _attempt(words)
    python = sys.executable.encode()
    posix.execv(python, [python, b"-P", b"-c", WHOLE, *warm.as_bytes(words)])


def _attempt(words: list[str]) -> None:
    """Answers and ends the process, or returns."""
    if words[:2] == ["store", "closure"]:
        from eka import lookup

        lookup.attempt(words[2:])
    else:
        from eka import again, warm

        again.attempt(warm.as_bytes(words))


def main() -> NoReturn:
    words = sys.argv[1:]
    collect_rarely()
    # A shell that asks for completions is for click to answer.
    if b"_EKA_COMPLETE" not in posix.environ:
        _plain(words)
    whole()


def _plain(words: list[str]) -> None:
    """Does it without click and ends the process, or returns."""
    if words[:1] == ["eval"]:
        from eka import plain_eval

        plain_eval.attempt(words[1:])
    elif words[:1] == ["store"] and words[1:2] in _PLAIN:
        from eka import plain_store

        plain_store.attempt(words[1:])


def whole() -> NoReturn:
    """Without trying."""
    collect_rarely()
    from eka.cli import main
    from eka.report import leave

    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, int):
            leave(end.code)
        raise


def collect_rarely() -> None:
    """Imports make objects to stay; looking through them for garbage is a twentieth of a start."""
    import gc

    gc.set_threshold(GARBAGE)
