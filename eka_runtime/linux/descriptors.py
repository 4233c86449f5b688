"""How many descriptors this process may have."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress


def raise_file_limit() -> int:
    """As far as the host lets us; the limit then. To be called by servers only: select(2) and
    programs that close everything on their way are why the limit is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
