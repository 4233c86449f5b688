"""What every model of the OCI runtime-spec shares: strict types, kept unknown fields, JSON paths.

Field names are exactly those of config.json. The source is the JSON Schema published with
runtime-spec 1.2 (`schema/config-schema.json` and its parts). Constraint: a document that the
official schema accepts comes back unchanged; one it refuses is refused here with the place of the
mistake. Rules beyond the schema are `check.py`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from eka_runtime.errors import SpecError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    T = TypeVar("T")
    Opt: TypeAlias = T | None
else:

    class Opt:
        """`Opt[T]` is T: a JSON null is not "absent", so pydantic must not see the None."""

        def __class_getitem__(cls, item: object) -> object:
            return item


UInt16 = Annotated[int, Field(ge=0, le=2**16 - 1)]
UInt32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
UInt64 = Annotated[int, Field(ge=0, le=2**64 - 1)]
Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
FileMode = Annotated[int, Field(ge=0, le=0o777)]
Strings = tuple[str, ...]
StringMap = dict[str, str]


class Model(BaseModel):
    """Immutable; sequences are tuples. Unknown fields are in `model_extra` and are written back."""

    # Building the validators of all models costs 30 ms; deferred, only those used are built.
    model_config = ConfigDict(strict=True, extra="allow", frozen=True, defer_build=True)

    def replace(self, **changes: object) -> Self:
        """A copy with fields changed, not validated again; None removes a field."""
        copy = self.model_copy(update=changes)
        gone = {name for name, value in changes.items() if value is None}
        copy.__pydantic_fields_set__.difference_update(gone)
        return copy

    def to_data(self) -> dict[str, Any]:
        """Plain JSON data; fields that were never set are absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Problem(NamedTuple):
    """One thing wrong; `path` is like `.mounts[3].options[0]`, empty for the whole document."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidSpec(SpecError):
    """SpecError that lists all problems; its message shows the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - 1
        super().__init__(f"{self.problems[0]}{f' (and {more} more)' if more else ''}")


def canonical_json(data: object) -> bytes:
    """Sorted keys, two-space indent, UTF-8, final newline. Raises SpecError for surrogates."""
    try:
        text = json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8") + b"\n"
    except UnicodeEncodeError as error:
        broken = error.object[max(0, error.start - 40) : error.end + 40]
        raise SpecError(
            f"text that is not UTF-8 cannot stand in JSON: {broken!r}",
            hint="rename the file or directory so that its name is valid UTF-8",
        ) from error


_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


def json_path(place: Iterable[str | int]) -> str:
    parts = []
    for part in place:
        if part == "[key]":
            continue  # pydantic's way to say that the key itself is wrong
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif _PLAIN_KEY.match(part):
            parts.append(f".{part}")
        else:
            parts.append(f"[{json.dumps(part, ensure_ascii=False)}]")
    return "".join(parts)


_EXPECTED = {
    "string_type": "string",
    "int_type": "integer",
    "bool_type": "boolean",
    "tuple_type": "array",
    "list_type": "array",
    "dict_type": "object",
    "model_type": "object",
    "model_attributes_type": "object",
}


def describe_errors(errors: Iterable[ErrorDetails]) -> list[Problem]:
    """pydantic's findings in our words."""
    return [Problem(json_path(error["loc"]), _describe(error)) for error in errors]


def _describe(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {_json_type(error['input'])}"
    bounds = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most")}
    if kind in bounds:
        key, words = bounds[kind]
        return f"must be {words} {context[key]}"
    if kind == "literal_error":
        return f"expected {context['expected']}"
    if kind == "string_pattern_mismatch":
        return f"must match `{context['pattern']}`"
    fixed = {"missing": "required field is missing", "extra_forbidden": "unknown key"}
    message = fixed.get(kind) or error["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names: Mapping[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return names.get(type(value), "object" if isinstance(value, Mapping) else "array")
