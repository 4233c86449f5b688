"""Settings of atoms: `[uri.aliases]`, `[cache]` and `[manifest.default.composer]` of eka.toml.

Layers, later wins, tables merged: built in, upstream's `$XDG_CONFIG_HOME/eka.toml` (whose other
keys are ignored), `$XDG_CONFIG_HOME/eka/eka.toml`, `info/eka.toml` in the git directory of the
repository around the current directory, `EKA_CACHE_ROOT`. Out of scope: all else that eka.toml has
(`eka/config.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eka.atom import fields
from eka.atom.toml_file import SIZE_LIMIT, Source
from eka.atom.uri import DEFAULT_ALIASES
from eka.atom.version import Requirement
from eka.directories import cache_dir, config_dir
from eka.shapes import Field, Map, Plain, Table, Text
from eka_runtime.errors import ConfigError

_TEXT = Plain(str, "a string")
_COMPOSER = Table(
    {
        "set": Field(
            Table(
                {
                    "tag": Field(fields.TAG, "", required=True),
                    "address": Field(_TEXT, "`::` or a URL, with aliases.", required=True),
                }
            ),
            "",
        ),
        "atom": Field(
            Table(
                {
                    "label": Field(fields.LABEL, "", required=True),
                    "version": Field(fields.REQUIREMENT, ""),
                    "entry": Field(fields.ENTRY, ""),
                }
            ),
            "",
        ),
    }
)
_TABLES: Mapping[str, Field] = {
    "uri": Field(
        Table(
            {"aliases": Field(Map(Text(str, "a name"), _TEXT, "a table of strings"), "")},
            open=False,
        ),
        "",
    ),
    "cache": Field(Table({"root": Field(_TEXT, "")}), ""),
    "manifest": Field(
        Table({"default": Field(Table({"composer": Field(_COMPOSER, "")}), "")}),
        "",
    ),
}
_OPEN = Table(_TABLES, open=True)


class Composer(NamedTuple):
    """What `eka new` has its atoms composed by; `address` is not expanded yet."""

    tag: str = "atom"
    address: str = "ekl:atom"
    label: str = "atom-nix"
    requirement: Requirement | None = None
    entry: str | None = None


class AtomSettings(NamedTuple):
    """`cache` is a directory of which everything may be deleted at any time."""

    aliases: Mapping[str, str]
    cache: Path
    composer: Composer


def load_atom_settings(environ: Mapping[str, str], directory: Path) -> AtomSettings:
    """As seen from `directory`. Raises ConfigError naming file, line and column."""
    own = config_dir(environ) / "eka.toml"
    files = [own.parents[1] / "eka.toml", own]
    if (git := find_git_dir(directory)) is not None:
        files.append(git / "info/eka.toml")
    aliases = dict(DEFAULT_ALIASES)
    composer = Composer()
    root = os.fspath(cache_dir(environ))
    for file in files:
        tables = _read(file)
        aliases.update(tables.get("uri", {}).get("aliases", {}))
        root = tables.get("cache", {}).get("root", root)
        stated = tables.get("manifest", {}).get("default", {}).get("composer", {})
        composer = composer._replace(**stated.get("set", {}))
        atom = dict(stated.get("atom", {}))
        if atom:
            requirement, entry = atom.pop("version", None), atom.pop("entry", None)
            composer = composer._replace(requirement=requirement, entry=entry, **atom)
    root = environ.get("EKA_CACHE_ROOT") or root
    return AtomSettings(aliases, Path(root).expanduser().absolute(), composer)


def find_git_dir(directory: Path) -> Path | None:
    """The common git directory of the repository around; by hand, as a git process costs more."""
    for place in (directory, *directory.parents):
        dot_git = place / ".git"
        if dot_git.is_dir():
            return dot_git
        if dot_git.is_file():
            return _linked(dot_git)
    return None


def _linked(dot_git: Path) -> Path | None:
    """Of a worktree or submodule: what its `.git` file leads to."""
    try:
        text = dot_git.read_text("utf-8").strip()
        git = dot_git.parent / text.removeprefix("gitdir:").strip()
        common = git / "commondir"
        return git / common.read_text("utf-8").strip() if common.exists() else git
    except (OSError, ValueError):
        return None


def _read(file: Path) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            data = stream.read(SIZE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read `{file}`: {error.strerror}") from error
    found = Source(data, str(file), ConfigError, SIZE_LIMIT).check(lambda d: _OPEN.check(d, ()))
    return {name: table for name, table in found.items() if name in _TABLES}
