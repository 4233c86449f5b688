"""Where `eka` starts: commands that are often repeated are tried warm, before click is imported."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    words = sys.argv[1:]
    if words and words[0] in ("eval", "run"):
        from eka.again import attempt

        encoding = sys.getfilesystemencoding()
        attempt([word.encode(encoding, "surrogateescape") for word in words])
    elif words[:2] == ["store", "closure"]:
        from eka import lookup

        lookup.attempt(words[2:])
    from eka.cli import main as whole

    whole()
