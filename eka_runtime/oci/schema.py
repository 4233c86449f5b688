"""Writes the JSON Schemas of `spec/` from the models: `python -m eka_runtime.oci.schema [DIR]`.

The committed files are what people and editors use; a test asserts that they are current.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from eka_runtime.oci.judge import strict
from eka_runtime.oci.profile_file import ProfileFile
from eka_runtime.oci.record import BundleRecord, ReasonRecord
from eka_runtime.oci.spec import Spec
from eka_runtime.oci.spec_base import canonical_json

_SCHEMAS: Mapping[str, tuple[type[BaseModel], str]] = {
    "oci-runtime.schema.json": (
        strict(Spec),
        "config.json of an OCI bundle (runtime-spec 1.2, Linux)",
    ),
    "profile.schema.json": (ProfileFile, "a sandbox profile, bundles/<name>.toml"),
    "bundle-record.schema.json": (strict(BundleRecord), "eka.json of a bundle"),
    "explain.schema.json": (strict(ReasonRecord), "one line of `eka explain --json`"),
}


class _Generator(GenerateJsonSchema):
    """Without generated titles, and without the null that absent fields have as default."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> dict[str, Any]:
        made = super().default_schema(schema)
        if made.get("default", 0) is None:
            del made["default"]
        return made


def schemas() -> dict[str, bytes]:
    """The contents of each schema file by name."""
    return {name: _schema(*entry) for name, entry in _SCHEMAS.items()}


def _schema(model: type[BaseModel], title: str) -> bytes:
    data = model.model_json_schema(schema_generator=_Generator)
    # Docstrings of models are for readers of the code.
    for definition in (data, *data.get("$defs", {}).values()):
        definition.pop("description", None)
        definition.pop("title", None)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return canonical_json({**data, **head})


def main(arguments: list[str]) -> int:
    default = Path(__file__).parents[2] / "spec"
    directory = Path(arguments[0]) if arguments else default
    for name, data in schemas().items():
        (directory / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
