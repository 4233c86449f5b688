"""Exports the JSON Schemas of scripts and runs: `python -m eka.script.schema` in a checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eka.run_records import RunRecord
from eka.script import metadata
from eka.script.lock import LOCK_FILE

SPEC = Path(__file__).parents[2] / "spec"


def schemas() -> dict[str, str]:
    """The contents of each schema file by name."""
    made = {
        "script-header": metadata.schema(),
        "script-lock": {"title": "lock of a script", **LOCK_FILE.schema()},
        "run-record": RunRecord.model_json_schema(),
    }
    return {f"{name}.schema.json": _render(schema) for name, schema in made.items()}


def _render(schema: dict[str, Any]) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    for name, text in schemas().items():
        (SPEC / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
