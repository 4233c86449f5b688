"""Where `eka` starts: commands that are often repeated are tried warm, before click is imported."""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

GARBAGE = 50_000
"""Objects beyond those freed at once, after which Python looks for cycles; by default 700."""


def main() -> NoReturn:
    words = sys.argv[1:]
    if b"_EKA_COMPLETE" in posix.environ:
        # A shell asks for completions, which only click knows.
        whole()
    if words and words[0] in ("eval", "run"):
        from eka.again import attempt

        encoding = sys.getfilesystemencoding()
        attempt([word.encode(encoding, "surrogateescape") for word in words])
    elif words[:2] == ["store", "closure"]:
        from eka import lookup

        lookup.attempt(words[2:])
    if words[:1] == ["eval"]:
        from eka import plain_eval

        collect_rarely()
        plain_eval.attempt(words[1:])
    whole()


def whole() -> NoReturn:
    """Without trying."""
    collect_rarely()
    from eka.cli import main

    main()


def collect_rarely() -> None:
    """Imports make objects to stay; looking through them for garbage is a twentieth of a start."""
    import gc

    gc.set_threshold(GARBAGE)
