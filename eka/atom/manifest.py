"""`atom.toml`: what an atom is called, what composes it, what it depends on.

The format is upstream's, held to exactly; `config`, `variants`, `systems` and `build.sources` are
eka's extensions, which a file opts into by having them and upstream's tools refuse. They stand at
the top level because publishing and listing read `[package]` only. spec/atom.md is the rule book.
Every error names file, line, column and what was expected there. Out of scope: edits
(`eka/atom/edit.py`), and whether what is named exists.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from eka.atom import fields
from eka.atom.options import Key, Option, OptionsShape, Value, ValuesShape, conform
from eka.atom.parts import (
    Compose,
    ComposeShape,
    ComposeStatic,
    ComposeWith,
    Direct,
    DirectShape,
    Mirrors,
)
from eka.atom.places import Path
from eka.atom.toml_file import SIZE_LIMIT, Source, read_bytes
from eka.atom.version import Requirement, Version
from eka.shapes import Field, Items, Map, Plain, Problem, Table
from eka_runtime.errors import ManifestError

FILE = "atom.toml"
PLACEHOLDER = "__VERSION__"
"""In the path of a direct dependency's URL, with `from_version`."""


class Package(NamedTuple):
    """`sets`: mirrors of each set by its tag, `::` first, in upstream's order, each once."""

    label: str
    version: Version
    description: str | None = None
    tags: tuple[str, ...] = ()
    sets: Mapping[str, tuple[str, ...]] = {}


class Manifest(NamedTuple):
    """`deps`: requirements by set tag and label. Below `direct`, all is empty unless stated."""

    package: Package
    compose: Compose
    deps: Mapping[str, Mapping[str, Requirement]]
    direct: Mapping[str, Direct]
    systems: tuple[str, ...] = ()
    config: Mapping[Key, Option] = {}
    variants: Mapping[str, Mapping[Key, Value]] = {}
    sources: tuple[str, ...] = ()


def read_manifest(file: str | os.PathLike[str]) -> Manifest:
    """Of the file, or of the directory that it is in. Raises ManifestError."""
    place = os.path.join(file, FILE) if os.path.isdir(file) else os.fspath(file)
    return parse_manifest(read_bytes(place, ManifestError, SIZE_LIMIT), place)


def parse_manifest(data: bytes, name: str = FILE) -> Manifest:
    """`name` is what messages call it. Raises ManifestError."""
    return Source(data, name, ManifestError, SIZE_LIMIT).check(check_manifest)


def parse_package(data: bytes, name: str = FILE) -> Package:
    """Only `[package]`, as publishing and listing a set do. Raises ManifestError."""
    return Source(data, name, ManifestError, SIZE_LIMIT).check(_only_package)


_META = Table(
    {
        "description": Field(Plain(str, "a string"), "Free text."),
        "tags": Field(Items(fields.TAG, "an array of tags"), "Free tags."),
    },
    open=True,
)
_IN_META = "move it to `[package.meta]`"
PACKAGE = Table(
    {
        "label": Field(fields.LABEL, "The atom's name in its set.", required=True),
        "version": Field(fields.VERSION, "SemVer 2.0.", required=True),
        "meta": Field(_META, "Not for machines; unknown keys are ignored."),
        "sets": Field(
            Map(fields.TAG, Mirrors(), "a table of sets"),
            "Sets by nickname: where each can be fetched from; `::` is the set that this is in.",
        ),
    },
    moved={
        "name": "write `label`",
        "description": _IN_META,
        "tags": _IN_META,
        "license": _IN_META,
        "authors": _IN_META,
    },
)
_DEPS = Table(
    {
        "from": Field(
            Map(
                fields.TAG,
                Map(fields.LABEL, fields.REQUIREMENT, "a table of atoms"),
                "a table of sets",
            ),
            "Atoms by set and label, with the versions wanted.",
        ),
        "direct": Field(
            Table(
                {
                    "nix": Field(
                        Map(fields.LABEL, DirectShape(), "a table of dependencies"),
                        "What Nix's fetchers get.",
                    )
                }
            ),
            "Dependencies that are no atoms.",
        ),
    },
    moved={"for": "write `[build] sources = […]` for sources of this set (spec/atom.md)"},
)
_BUILD = Table(
    {
        "sources": Field(
            Items(fields.LABEL, "an array of names"),
            "Names of `[build.sources]` in ekala.toml: trees of this repository.",
        )
    }
)
MANIFEST = Table(
    {
        "package": Field(PACKAGE, "What the atom is.", required=True),
        "compose": Field(
            ComposeShape(),
            "What makes a value of the directory.",
            required=True,
            hint='add `[compose.as]` with `nix = "."`, or `[compose.with.<atom>]`',
        ),
        "deps": Field(_DEPS, "What it needs."),
        "systems": Field(
            Items(fields.SYSTEM, "an array of systems"),
            "Systems that it is for; all if not stated.",
            extension=True,
        ),
        "config": Field(OptionsShape(), "What it can be configured by.", extension=True),
        "variants": Field(
            Map(fields.LABEL, ValuesShape(), "a table of variants"),
            "Named sets of values for options of `config`.",
            extension=True,
        ),
        "build": Field(_BUILD, "What its builds need of this repository.", extension=True),
    },
    moved={"metadata": "use `[package.meta]`", "atom": "use `[package]`"},
)


def check_manifest(data: Mapping[str, object]) -> Manifest:
    """Raises shapes.Problem."""
    found = MANIFEST.check(data, ())
    deps = found.get("deps", {})
    config = found.get("config", {})
    manifest = Manifest(
        package=_package(found["package"]),
        compose=found["compose"],
        deps=deps.get("from", {}),
        direct=deps.get("direct", {}).get("nix", {}),
        systems=found.get("systems", ()),
        config=config,
        variants={
            name: {key: conform(config, key, *given) for key, given in values.items()}
            for name, values in found.get("variants", {}).items()
        },
        sources=found.get("build", {}).get("sources", ()),
    )
    _check_tables(manifest)
    return manifest


def _package(found: Mapping[str, Any]) -> Package:
    meta = found.get("meta", {})
    tags = tuple(sorted(set(meta.get("tags", ()))))
    sets = found.get("sets", {})
    return Package(found["label"], found["version"], meta.get("description"), tags, sets)


def _only_package(data: Mapping[str, object]) -> Package:
    if "package" not in data:
        raise Problem("the file has no `package`", (), hint="add `[package]`")
    return _package(PACKAGE.check(data["package"], ("package",)))


def _check_tables(manifest: Manifest) -> None:
    """What one table says about another, in upstream's order."""
    sets = manifest.package.sets
    for tag in manifest.deps:
        if tag not in sets:
            raise _undeclared(tag, ("deps", "from", tag), at_key=True)
    compose = manifest.compose
    if isinstance(compose, ComposeWith) and compose.set_tag not in sets:
        raise _undeclared(compose.set_tag, ("compose", "with", compose.label, "from"))
    if isinstance(compose, ComposeStatic) and (manifest.deps or manifest.direct):
        path = ("deps", "from" if manifest.deps else "direct")
        hint = "remove `[deps]`, or compose it otherwise"
        raise Problem("a static atom cannot have dependencies", path, hint=hint)


def _undeclared(tag: str, path: Path, *, at_key: bool = False) -> Problem:
    hint = f'add `{tag} = "https://…"`, or `"::"`, to `[package.sets]`'
    return Problem(f"`{tag}` is no set of `[package.sets]`", path, hint=hint, at_key=at_key)
