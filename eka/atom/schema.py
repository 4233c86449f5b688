"""Exports the JSON Schemas of atoms' files: `python -m eka.atom.schema` in a checkout."""

from __future__ import annotations

import json
from pathlib import Path

from eka.atom.lock import LOCK
from eka.atom.manifest import MANIFEST
from eka.atom.set_file import SET_FILE
from eka.shapes import Json, Table

SPEC = Path(__file__).parents[2] / "spec"
_SHAPES: dict[str, tuple[str, Table]] = {
    "atom-manifest.schema.json": ("atom.toml", MANIFEST),
    "atom-set.schema.json": ("ekala.toml", SET_FILE),
    "atom-lock.schema.json": ("atom.lock", LOCK),
}


def schemas() -> dict[str, str]:
    """The contents of each schema file by name."""
    return {
        name: json.dumps(json_schema(name), indent=2, ensure_ascii=False) + "\n" for name in _SHAPES
    }


def json_schema(name: str) -> Json:
    """That of one schema file."""
    title, shape = _SHAPES[name]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return {**head, **shape.schema()}


def main() -> None:
    for name, text in schemas().items():
        (SPEC / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
