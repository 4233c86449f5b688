"""Exports the JSON Schema of the script header: `python -m eka.script.schema` in a checkout."""

from __future__ import annotations

import json
from pathlib import Path

from eka.script.metadata import ScriptMetadata

FILE = Path(__file__).parents[2] / "spec" / "script-header.schema.json"


def render() -> str:
    schema = ScriptMetadata.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), "utf-8")
