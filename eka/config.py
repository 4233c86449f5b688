"""Settings of the tool: `eka.toml` and `EKA_*` variables, in one record that knows their origin.

Layers, later wins: built-in default, `$XDG_CONFIG_HOME/eka/eka.toml`, the environment, the command
line. Unknown keys are errors: a misspelt setting that is silently ignored is the worst kind.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from eka.directories import cache_dir, config_dir, data_dir, state_dir
from eka_runtime.cache.settings import checked_table
from eka_runtime.errors import ConfigError
from eka_runtime.store.addresses import KEYS
from eka_runtime.store.layout import default_store_dir

__all__ = [
    "ATOM_TABLES",
    "Settings",
    "cache_dir",
    "config_dir",
    "data_dir",
    "load_settings",
    "state_dir",
]

_KEYS = {
    "store": "EKA_STORE",
    "shell": "EKA_SHELL",
    "runtime": "EKA_RUNTIME",
    "mode": "EKA_MODE",
    "view": "EKA_VIEW",
    "evaluator": "EKA_EVALUATOR",
    "daemon": "EKA_DAEMON",
}


ATOM_TABLES = ("uri", "cache", "manifest")
"""Tables of eka.toml that `eka/atom/settings.py` reads and checks."""


class Settings(NamedTuple):
    """`shell` is a static shell's path for /bin/sh; `runtime`, `mode` and `view` are None for
    "find out".

    `evaluator` is a store path, or `nix` or None for the host's Nix; `daemon` one that runs already
    (`eka/named_daemon.py`).
    `record` says whether runs go into the ledger. `services` is the table of that name; snix's
    variables come on top of it where it is used (`eka_runtime.store.addresses`); `caches` likewise
    (`eka_runtime.cache.settings`).
    """

    store: Path
    shell: str | None
    runtime: str | None
    mode: str | None
    view: str | None
    origin: Mapping[str, str]
    services: Mapping[str, str]
    caches: Mapping[str, object]
    record: bool
    evaluator: str | None = None
    daemon: str | None = None


def load_settings(environ: Mapping[str, str], *, store: Path | None = None) -> Settings:
    """Raises ConfigError naming file and key; relative paths in eka.toml are refused."""
    file = config_dir(environ) / "eka.toml"
    data = _from_file(file)
    for table in ATOM_TABLES:
        data.pop(table, None)
    services = _checked_services(file, data.pop("services", {}))
    caches = checked_table(file, data.pop("caches", {}))
    record = data.pop("record", False)
    if not isinstance(record, bool):
        raise ConfigError(f"`record` in `{file}` must be true or false")
    values = {key: _checked(file, key, value) for key, value in data.items()}
    origin = dict.fromkeys(values, str(file))
    for key, variable in _KEYS.items():
        if environ.get(variable):
            values[key], origin[key] = environ[variable], variable
    if store is not None:
        values["store"], origin["store"] = str(store.absolute()), "--store"
    chosen = values.get("store") or os.fspath(default_store_dir(environ))
    return Settings(
        Path(chosen).absolute(),
        values.get("shell"),
        values.get("runtime"),
        values.get("mode"),
        values.get("view"),
        origin,
        services,
        caches,
        record,
        values.get("evaluator"),
        values.get("daemon"),
    )


def _from_file(file: Path) -> dict[str, object]:
    try:
        text = file.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read `{file}`: {error}") from error
    import tomli

    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigError(f"`{file}` is not valid TOML: {error}") from error


def _checked(file: Path, key: str, value: object) -> str:
    if key not in _KEYS:
        tables = ("record", "services", "caches", *ATOM_TABLES)
        known = ", ".join(f"`{name}`" for name in (*_KEYS, *tables))
        raise ConfigError(f"unknown key `{key}` in `{file}`", hint=f"use one of {known}")
    if not isinstance(value, str) or not value:
        raise ConfigError(f"`{key}` in `{file}` must be a non-empty string")
    if key in ("store", "shell") and not value.startswith("/"):
        raise ConfigError(f"`{key}` in `{file}` must be an absolute path: {value}")
    return value


def _checked_services(file: Path, table: object) -> dict[str, str]:
    if not isinstance(table, dict):
        raise ConfigError(f"`services` in `{file}` must be a table")
    for key, value in table.items():
        if key not in KEYS:
            known = ", ".join(f"`{name}`" for name in KEYS)
            raise ConfigError(
                f"unknown key `services.{key}` in `{file}`", hint=f"use one of {known}"
            )
        if not isinstance(value, str) or not value:
            raise ConfigError(f"`services.{key}` in `{file}` must be a non-empty string")
    if "composition" in table and len(table) > 1:
        raise ConfigError(
            f"`services` in `{file}` has a `composition` and addresses beside it",
            hint="a composition names all services: remove one or the other",
        )
    if not table.get("composition", "/").startswith("/"):
        raise ConfigError(f"`services.composition` in `{file}` must be an absolute path")
    return table
