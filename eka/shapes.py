"""Shapes of TOML and JSON values: one description that checks a file and exports its JSON Schema.

Why not pydantic, as for documents of OCI: importing it and building these models takes longer than
all else that a command like `eka manifest check` does (measured: 0.13 s against 0.03 s). The price
is this page. A shape turns plain data into checked values, or raises Problem at the first thing
that is wrong in the order of the file; nothing is coerced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from eka_runtime.errors import FormatError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Json = dict[str, Any]
Path = tuple[str | int, ...]
"""Of a value: keys of tables, indexes of arrays."""

EXTENSION = "x-eka-extension"
"""Marks in a schema what upstream's parsers refuse."""


class Problem(Exception):
    """What is wrong at `path`; `at_key` if it is the key rather than its value."""

    def __init__(
        self, message: str, path: Path, *, hint: str | None = None, at_key: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.hint = hint
        self.at_key = at_key


class Shape(Protocol[T_co]):
    def check(self, value: object, path: Path) -> T_co:
        """Raises Problem."""

    def schema(self) -> Json:
        """JSON Schema (2020-12) of what `check` takes, as far as one can say it."""


def dotted(path: Path) -> str:
    """`deps.from.here`, `packages[2]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _bare(part) else f'"{part}"')
    return text


def _bare(key: str) -> bool:
    return key.replace("-", "_").isidentifier() or key.isalnum()


def kind(value: object) -> str:
    kinds = {
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        list: "an array",
        dict: "a table",
    }
    return kinds.get(type(value), "a date or time")


def wrong_kind(path: Path, expected: str, value: object, hint: str | None = None) -> Problem:
    what = f"`{dotted(path)}`" if path else "the file"
    return Problem(f"{what} must be {expected}, not {kind(value)}", path, hint=hint)


class Text(Generic[T]):
    """A string that `parse` takes; `parse` raises FormatError."""

    def __init__(self, parse: Callable[[str], T], what: str, **schema: object) -> None:
        self._parse = parse
        self._what = what
        self._schema = schema

    def check(self, value: object, path: Path) -> T:
        if not isinstance(value, str):
            raise wrong_kind(path, self._what, value)
        try:
            return self._parse(value)
        except FormatError as error:
            raise Problem(f"`{dotted(path)}`: {error}", path, hint=error.hint) from None

    def key(self, key: str, path: Path) -> T:
        """As `check`, for the key of a table."""
        try:
            return self._parse(key)
        except FormatError as error:
            message = f"a key of `{dotted(path[:-1])}`: {error}"
            raise Problem(message, path, hint=error.hint, at_key=True) from None

    def schema(self) -> Json:
        return {"type": "string", **self._schema}


class Plain(Generic[T]):
    """A value of one type of TOML's."""

    def __init__(self, type_: type[T], what: str) -> None:
        self._type = type_
        self._what = what

    def check(self, value: object, path: Path) -> T:
        if isinstance(value, self._type) and type(value) is self._type:
            return value
        raise wrong_kind(path, self._what, value)

    def schema(self) -> Json:
        return {"type": {str: "string", bool: "boolean", int: "integer"}[self._type]}


class Constant(Generic[T]):
    """One value and no other."""

    def __init__(self, constant: T) -> None:
        self._constant = constant

    def check(self, value: object, path: Path) -> T:
        if type(value) is not type(self._constant):
            raise wrong_kind(path, repr(self._constant), value)
        if value != self._constant:
            message = f"`{dotted(path)}` must be {self._constant!r}, not {value!r:.40}"
            raise Problem(message, path)
        return self._constant

    def schema(self) -> Json:
        return {"const": self._constant}


class Choice:
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def check(self, value: object, path: Path) -> str:
        expected = " or ".join(f'"{word}"' for word in self._words)
        if not isinstance(value, str):
            raise wrong_kind(path, expected, value)
        if value not in self._words:
            raise Problem(f"`{dotted(path)}` must be {expected}, not {value[:40]!r}", path)
        return value

    def schema(self) -> Json:
        return {"enum": list(self._words)}


class Items(Generic[T]):
    """An array of one shape, as a tuple."""

    def __init__(self, item: Shape[T], what: str, *, length: int | None = None) -> None:
        self._item = item
        self._what = what
        self._length = length

    def check(self, value: object, path: Path) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise wrong_kind(path, self._what, value)
        if self._length is not None and len(value) != self._length:
            message = f"`{dotted(path)}` must be {self._what}; it has {len(value)} elements"
            raise Problem(message, path)
        return tuple(self._item.check(item, (*path, n)) for n, item in enumerate(value))

    def schema(self) -> Json:
        exact = {} if self._length is None else {"minItems": self._length, "maxItems": self._length}
        return {"type": "array", "items": self._item.schema(), **exact}


class Map(Generic[T]):
    """A table whose keys are the author's: names of one kind, values of one shape."""

    def __init__(self, key: Text[str], item: Shape[T], what: str) -> None:
        self._key = key
        self._item = item
        self._what = what

    def check(self, value: object, path: Path) -> dict[str, T]:
        checked: dict[str, T] = {}
        for key, item in table(value, path, self._what).items():
            here = (*path, key)
            name = self._key.key(key, here)
            if name in checked:
                message = f"`{dotted(here)}` is `{name}` once more after normalization"
                raise Problem(message, here, at_key=True)
            checked[name] = self._item.check(item, here)
        return checked

    def schema(self) -> Json:
        keys = {key: value for key, value in self._key.schema().items() if key != "type"}
        names = {"propertyNames": keys} if keys else {}
        return {"type": "object", **names, "additionalProperties": self._item.schema()}


class Field(NamedTuple):
    """`extension` if upstream's parsers refuse the key."""

    shape: Shape[object]
    doc: str
    required: bool = False
    extension: bool = False
    hint: str | None = None
    """For its absence or a wrong type."""

    def schema(self) -> Json:
        mark = {EXTENSION: True} if self.extension else {}
        words = {"description": self.doc} if self.doc else {}
        return {**self.shape.schema(), **words, **mark}


class Table:
    """A table with known keys, as a dictionary of those that are there.

    Unknown keys are refused unless `open`; `moved` has a hint for keys that people try.
    """

    def __init__(
        self,
        fields: Mapping[str, Field],
        *,
        open: bool = False,
        moved: Mapping[str, str] | None = None,
    ) -> None:
        self.fields = fields
        self._open = open
        self._moved = moved or {}

    def check(self, value: object, path: Path) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        for key, item in table(value, path, "a table").items():
            if key in self.fields:
                checked[key] = self.fields[key].shape.check(item, (*path, key))
            elif not self._open:
                raise self._unknown(key, path)
        for key, field in self.fields.items():
            if field.required and key not in checked:
                where = f"`{dotted(path)}`" if path else "the file"
                raise Problem(f"{where} has no `{key}`", path, hint=field.hint or f"add `{key}`")
        return checked

    def _unknown(self, key: str, path: Path) -> Problem:
        from difflib import get_close_matches

        here = (*path, key)
        near = get_close_matches(key, self.fields, 1)
        known = ", ".join(f"`{name}`" for name in self.fields)
        hint = self._moved.get(key) or (f"write `{near[0]}`" if near else f"use one of {known}")
        return Problem(f"unknown key `{dotted(here)}`", here, hint=hint, at_key=True)

    def schema(self) -> Json:
        return {
            "type": "object",
            "properties": {key: field.schema() for key, field in self.fields.items()},
            "required": [key for key, field in self.fields.items() if field.required],
            "additionalProperties": self._open,
        }


def table(value: object, path: Path, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise wrong_kind(path, what, value)
    return value
