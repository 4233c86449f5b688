"""Judges documents by the annotations of the models: all of pydantic that `spec*.py` need.

The source of the rules is the JSON Schema published with runtime-spec 1.2
(`schema/config-schema.json` and its parts). Constraint: a document that the official schema accepts
comes back unchanged; one that it refuses is refused here, with the place of every mistake. Imported
only where a document is read that eka did not just make: see `spec_base.py` for why.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from eka_runtime.oci import spec_base
from eka_runtime.oci.spec_base import InvalidSpec, Model, Problem, json_path

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    T = TypeVar("T")
    Opt: TypeAlias = T | None
else:

    class Opt:
        """`Opt[T]` is T: a JSON null is not "absent", so pydantic must not see the None."""

        def __class_getitem__(cls, item: object) -> object:
            return item


M = TypeVar("M", bound=Model)

UInt16 = Annotated[int, Field(ge=0, le=2**16 - 1)]
UInt32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
UInt64 = Annotated[int, Field(ge=0, le=2**64 - 1)]
Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Seconds = Annotated[int, Field(ge=1)]
FileMode = Annotated[int, Field(ge=0, le=0o777)]
Strings = tuple[str, ...]
SomeStrings = Annotated[Strings, Field(min_length=1)]
StringMap = dict[str, str]
CpuList = Annotated[str, Field(pattern=r"^[0-9, -]*$")]
RlimitType = Annotated[str, Field(pattern=r"^RLIMIT_[A-Z]+$")]
DeviceType = Annotated[str, Field(pattern=r"^[cbup]$")]
MemoryBandwidth = Annotated[str, Field(pattern=r"^MB:[^\n]*$")]
PageSize = Annotated[str, Field(pattern=r"^[1-9][0-9]*[KMG]B$")]


def judge(model: type[M], document: bytes | str) -> M:
    """Raises InvalidSpec, which lists every problem with its JSON path."""
    try:
        return _model(model, strict(model).model_validate_json(document))
    except ValidationError as error:
        raise InvalidSpec(describe_errors(error.errors(include_url=False))) from None


_made: dict[type[Model], type[BaseModel]] = {}


def strict(model: type[Model]) -> type[BaseModel]:
    """What pydantic makes of a model: strict types, and unknown fields kept."""
    if model not in _made:
        _made[model] = _make(model)
    return _made[model]


def _make(model: type[Model]) -> type[BaseModel]:
    # Building the validators of all models costs 30 ms; deferred, only those used are built.
    config = ConfigDict(
        strict=True, extra="allow", defer_build=True, alias_generator=lambda name: name.rstrip("_")
    )
    # Types that only pydantic needs are imported by the models for the type checker alone.
    scope = vars(spec_base) | globals() | vars(sys.modules[model.__module__])
    hints = get_type_hints(model, scope, {}, include_extras=True)
    fields = {name: (_judged(hints[name]), getattr(model, name, ...)) for name in model.field_names}
    return create_model(model.__name__, __config__=config, **fields)  # type: ignore[call-overload,no-any-return]


def _judged(hint: Any) -> Any:
    """The type of a field, with what pydantic makes of models in place of them."""
    origin = get_origin(hint)
    if origin in (tuple, dict):
        return origin[tuple(_judged(argument) for argument in get_args(hint))]
    if isinstance(hint, type) and issubclass(hint, Model):
        return Annotated[strict(hint), AfterValidator(partial(_model, hint))]
    return hint


def _model(model: type[M], judged: BaseModel) -> M:
    stated = [name for name in model.field_names if name in judged.model_fields_set]
    fields = {name: getattr(judged, name) for name in stated}
    return model.of_document(fields, judged.model_extra or {})


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
    # "[key]" is pydantic's way to say that the key itself is wrong.
    return [
        Problem(json_path(part for part in error["loc"] if part != "[key]"), _describe(error))
        for error in errors
    ]


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
