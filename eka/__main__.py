"""`python -m eka`: the same as the installed `eka`."""

from __future__ import annotations

from eka.cli import main

if __name__ == "__main__":
    main()
