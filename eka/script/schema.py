"""Exports the JSON Schemas of scripts and runs: `python -m eka.script.schema` in a checkout."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from eka.runs import RunRecord
from eka.script.lock import LockFile
from eka.script.metadata import ScriptMetadata

SPEC = Path(__file__).parents[2] / "spec"
_MODELS: dict[str, type[BaseModel]] = {
    "script-header.schema.json": ScriptMetadata,
    "script-lock.schema.json": LockFile,
    "run-record.schema.json": RunRecord,
}


def schemas() -> dict[str, str]:
    """The contents of each schema file by name."""
    return {name: _render(model) for name, model in _MODELS.items()}


def _render(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    for name, text in schemas().items():
        (SPEC / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
