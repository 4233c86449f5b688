"""`ekala.toml`: which directories of a repository are atoms of its set.

`build.sources`, trees of the repository that builds may ask for, is eka's extension: upstream's
tools refuse a file that has it. Out of scope: the atoms themselves (`eka/atom/sets.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from eka.atom import fields
from eka.atom.places import Path
from eka.atom.toml_file import SIZE_LIMIT, Source
from eka.shapes import Field, Items, Json, Map, Problem, Table, dotted
from eka_runtime.errors import ManifestError

FILE = "ekala.toml"
FRESH = "[set]\npackages = []\n\n[metadata]\ntags = []\n"
"""What `eka init` writes."""


class SetFile(NamedTuple):
    """Paths are relative to the set's root, normalized, `.` for the root itself."""

    packages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    sources: Mapping[str, str] = {}


class _Packages:
    _items = Items(fields.PACKAGE_PATH, "an array of paths")

    def check(self, value: object, path: Path) -> tuple[str, ...]:
        found = self._items.check(value, path)
        for number, package in enumerate(found):
            if package in found[:number]:
                here = (*path, number)
                message = f"`{dotted(here)}` is `{package}` once more"
                raise Problem(message, here, hint="remove one")
        return found

    def schema(self) -> Json:
        return {**self._items.schema(), "uniqueItems": True}


_SET = Table({"packages": Field(_Packages(), "Directories that have an atom.toml.")})
_METADATA = Table(
    {"tags": Field(Items(fields.TAG, "an array of tags"), "Free tags.")},
    open=True,
)
_SOURCES = Map(fields.LABEL, fields.PACKAGE_PATH, "a table of paths")
SET_FILE = Table(
    {
        "set": Field(_SET, "What the set has.", required=True),
        "metadata": Field(_METADATA, "Not for machines; unknown keys are ignored."),
        "build": Field(
            Table({"sources": Field(_SOURCES, "Files or directories by name.")}),
            "What builds of the set's atoms may have of this repository.",
            extension=True,
        ),
    }
)


def parse_set_file(data: bytes, name: str = FILE) -> SetFile:
    """`name` is what messages call it. Raises ManifestError."""
    return Source(data, name, ManifestError, SIZE_LIMIT).check(_check)


def _check(data: Mapping[str, object]) -> SetFile:
    found = SET_FILE.check(data, ())
    tags = tuple(sorted(set(found.get("metadata", {}).get("tags", ()))))
    sources = found.get("build", {}).get("sources", {})
    return SetFile(found["set"].get("packages", ()), tags, sources)
