"""`python -m eka`: the same as the installed `eka`."""

from __future__ import annotations

from eka.entry import whole

if __name__ == "__main__":
    whole()
