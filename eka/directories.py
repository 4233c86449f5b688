"""Where eka keeps what is the user's, by the XDG base directory specification.

Apart from `eka/config.py`, which has to know what stores and caches are called: commands that need
neither start sooner.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def config_dir(environ: Mapping[str, str]) -> Path:
    return _xdg(environ, "XDG_CONFIG_HOME", ".config") / "eka"


def cache_dir(environ: Mapping[str, str]) -> Path:
    """Everything below may be deleted at any time; nothing but speed is lost."""
    return _xdg(environ, "XDG_CACHE_HOME", ".cache") / "eka"


def state_dir(environ: Mapping[str, str]) -> Path:
    """What is worth keeping, but belongs to this machine: the ledger of runs."""
    return _xdg(environ, "XDG_STATE_HOME", ".local/state") / "eka"


def data_dir(environ: Mapping[str, str]) -> Path:
    return _xdg(environ, "XDG_DATA_HOME", ".local/share") / "eka"


def _xdg(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    # The XDG base directory specification: relative values are invalid and ignored.
    value = environ.get(variable, "")
    if value.startswith("/"):
        return Path(value)
    return Path(environ.get("HOME") or Path.home()) / fallback
