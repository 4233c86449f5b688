"""Which binary caches are in force and whom they are trusted with: eka's settings over Nix's own.

    [caches] of eka.toml      variable                   nix.conf
    substituters              EKA_SUBSTITUTERS           substituters, extra-substituters
    trusted-public-keys       EKA_TRUSTED_PUBLIC_KEYS    trusted-public-keys, extra-…
    require-sigs                                         require-sigs
    netrc-file                NETRC                      netrc-file
    ssl-cert-file             NIX_SSL_CERT_FILE          ssl-cert-file

Key by key, a variable beats eka.toml, and eka.toml beats nix.conf. No cache is asked that nobody
has named; where no keys are named, the key of the public cache of NixOS is trusted, as by Nix.
nix.conf is read as Nix does: of the system, of the user, then NIX_CONFIG. Nothing is opened here,
and this module is cheap to import: settings are read at every cold start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from eka_runtime.errors import ConfigError

DEFAULT_KEYS = ("cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",)
LISTS = ("substituters", "trusted-public-keys")
TEXTS = ("netrc-file", "ssl-cert-file")
FLAGS = ("require-sigs",)
KEYS = (*LISTS, *FLAGS, *TEXTS)

_VARIABLES = {
    "substituters": "EKA_SUBSTITUTERS",
    "trusted-public-keys": "EKA_TRUSTED_PUBLIC_KEYS",
}
_OLD_NAMES = {
    "binary-caches": "substituters",
    "binary-cache-public-keys": "trusted-public-keys",
    "extra-binary-caches": "extra-substituters",
    "build-use-substitutes": "substitute",
}
_INCLUDES_MAX = 16

Table = Mapping[str, object]


class CacheSettings(NamedTuple):
    substituters: tuple[str, ...] = ()
    keys: tuple[str, ...] = DEFAULT_KEYS
    require: bool = True
    netrc_file: str | None = None
    certificates: str | None = None

    def __str__(self) -> str:
        return ", ".join(self.substituters)


def checked_table(file: str | os.PathLike[str], table: object) -> dict[str, object]:
    """The table [caches] of eka.toml. Raises ConfigError naming file and key."""
    where = f"`{os.fspath(file)}`"
    if not isinstance(table, dict):
        raise ConfigError(f"`caches` in {where} must be a table")
    for key, value in table.items():
        if key not in KEYS:
            known = ", ".join(f"`{name}`" for name in KEYS)
            raise ConfigError(f"unknown key `caches.{key}` in {where}", hint=f"use one of {known}")
        if key in FLAGS and not isinstance(value, bool):
            raise ConfigError(f"`caches.{key}` in {where} must be true or false")
        if key in TEXTS and not (isinstance(value, str) and value.startswith("/")):
            raise ConfigError(f"`caches.{key}` in {where} must be an absolute path")
        if key in LISTS and not _is_list(value):
            raise ConfigError(f"`caches.{key}` in {where} must be a list of strings")
    return table


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def in_force(environ: Mapping[str, str], table: Table) -> CacheSettings:
    """`table` is a checked [caches]. Raises ConfigError for a nix.conf that makes no sense."""
    nix = _from_nix(environ)
    lists = {key: _list(environ, table, nix, key) for key in LISTS}
    certificates = environ.get("NIX_SSL_CERT_FILE") or _text(table, nix, "ssl-cert-file")
    require = table.get("require-sigs", nix.get("require-sigs", "true") != "false")
    return CacheSettings(
        tuple(dict.fromkeys(lists["substituters"] or ())),
        DEFAULT_KEYS if lists["trusted-public-keys"] is None else lists["trusted-public-keys"],
        bool(require),
        environ.get("NETRC") or _text(table, nix, "netrc-file"),
        certificates,
    )


def _list(
    environ: Mapping[str, str], table: Table, nix: Mapping[str, str], key: str
) -> tuple[str, ...] | None:
    if (stated := environ.get(_VARIABLES[key])) is not None:
        return tuple(stated.split())
    stated_here = table.get(key)
    if isinstance(stated_here, list):
        return tuple(stated_here)
    if key == "substituters" and nix.get("substitute") == "false":
        return None
    if key in nix or f"extra-{key}" in nix:
        default = " ".join(DEFAULT_KEYS) if key == "trusted-public-keys" else ""
        return tuple(f"{nix.get(key, default)} {nix.get(f'extra-{key}', '')}".split())
    return None


def _text(table: Table, nix: Mapping[str, str], key: str) -> str | None:
    stated = table.get(key, nix.get(key))
    return stated if isinstance(stated, str) and stated else None


def _from_nix(environ: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in _nix_files(environ):
        _read(file, found, 0)
    _take(environ.get("NIX_CONFIG", ""), "NIX_CONFIG", found, 0)
    return found


def _nix_files(environ: Mapping[str, str]) -> Iterator[str]:
    """Those that come later win."""
    yield os.path.join(environ.get("NIX_CONF_DIR") or "/etc/nix", "nix.conf")
    if (stated := environ.get("NIX_USER_CONF_FILES")) is not None:
        yield from reversed([file for file in stated.split(":") if file])
        return
    home = environ.get("HOME", "")
    own = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    others = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    for directory in reversed([own, *others]):
        if directory.startswith("/"):
            yield f"{directory}/nix/nix.conf"


def _read(file: str, found: dict[str, str], depth: int, *, required: bool = False) -> None:
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as stream:
            text = stream.read(1 << 20)
    except OSError as error:
        if required:
            raise ConfigError(f"cannot read `{file}`: {error.strerror}") from error
        return
    _take(text, file, found, depth)


def _take(text: str, file: str, found: dict[str, str], depth: int) -> None:
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) == 2 and words[0] in ("include", "!include"):
            if depth == _INCLUDES_MAX:
                raise ConfigError(f"`{file}` includes files more than {_INCLUDES_MAX} deep")
            place = os.path.join(os.path.dirname(file), words[1])
            _read(place, found, depth + 1, required=words[0] == "include")
        elif len(words) >= 2 and words[1] == "=":
            key = _OLD_NAMES.get(words[0], words[0])
            value = " ".join(words[2:])
            if key.startswith("extra-"):
                # What is added is added to what an earlier file has added.
                value = f"{found.get(key, '')} {value}".strip()
            found[key] = value
