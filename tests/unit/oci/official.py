"""The official runtime-spec schema: a validator without network, and documents made from it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft4Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

SCHEMA = Path(__file__).parents[2] / "vectors" / "oci-runtime-spec" / "schema"
GOOD = sorted((SCHEMA / "test" / "config" / "good").glob("*.json"))

Schema = dict[str, Any]


@cache
def validator() -> Draft4Validator:
    resources = [
        (file.name, Resource.from_contents(json.loads(file.read_bytes()), DRAFT4))
        for file in SCHEMA.glob("*.json")
    ]
    registry: Registry[Any] = Registry().with_resources(resources)
    return Draft4Validator(_document("config-schema.json"), registry=registry)


def accepts(data: object) -> bool:
    return bool(validator().is_valid(data))


@cache
def _document(name: str) -> Schema:
    data: Schema = json.loads((SCHEMA / name).read_bytes())
    return data


def documents() -> st.SearchStrategy[Any]:
    """config.json documents with every field the Linux schema knows, each there or not."""
    return _strategy("config-schema.json", _document("config-schema.json"))


# Objects of other platforms are data to us; the fixtures cover them.
_FOREIGN = ("solaris", "windows", "vm", "zos", "freebsd")

_PATTERNS = {
    ".{1,}": "x",
    "^RLIMIT_[A-Z]+$": "RLIMIT_NOFILE",
    "^[0-9, -]*$": "0-3, 7",
    "^[1-9][0-9]*[KMG]B$": "2MB",
    "^MB:[^\\n]*$": "MB:0=70",
    "^[cbup]$": "c",
}

_TEXT = st.text(max_size=5)


def _strategy(file: str, schema: Schema) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        name, _, pointer = schema["$ref"].partition("#/")
        target = _document(name or file)
        for part in pointer.split("/"):
            target = target[part]
        return _strategy(name or file, target)
    if "anyOf" in schema:
        return st.one_of([_strategy(file, one) for one in schema["anyOf"]])
    if "allOf" in schema:
        parts = [_strategy(file, one) for one in schema["allOf"]]
        return st.tuples(*parts).map(lambda dicts: {k: v for d in dicts for k, v in d.items()})
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return _typed(file, schema)


def _typed(file: str, schema: Schema) -> st.SearchStrategy[Any]:
    match schema["type"]:
        case "string":
            return st.just(_PATTERNS[schema["pattern"]]) if "pattern" in schema else _TEXT
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum", -9), schema.get("maximum", 9))
        case "array":
            items = _strategy(file, schema["items"])
            return st.lists(items, min_size=schema.get("minItems", 0), max_size=2)
    return _object(file, schema)


def _object(file: str, schema: Schema) -> st.SearchStrategy[Any]:
    if "patternProperties" in schema:
        return st.dictionaries(st.text(min_size=1, max_size=5), _TEXT, max_size=2)
    if "additionalProperties" in schema:
        values = _strategy(file, schema["additionalProperties"])
        return st.dictionaries(_TEXT, values, max_size=2)
    known = {
        key: _strategy(file, value)
        for key, value in schema["properties"].items()
        if key not in _FOREIGN
    }
    needed = schema.get("required", [])
    return st.fixed_dictionaries(
        {key: known[key] for key in needed},
        optional={key: value for key, value in known.items() if key not in needed},
    )
