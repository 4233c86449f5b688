"""What an atom can be configured by: `[config]` and `[variants.*]` of its manifest.

An extension of eka's (spec/atom.md). Here is what may be declared and whether a value conforms;
what configuration results, its canonical text and its hash are made in `eka/evaluate/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

from eka.atom.fields import LABEL
from eka.atom.places import Path
from eka.shapes import Choice, Json, Problem, dotted, kind, table, wrong_kind

Scalar = str | bool | int | float
Value = Scalar | tuple[Scalar, ...]
Type = Literal["string", "boolean", "integer", "float", "list"]
Key = tuple[str, ...]
"""`("features", "x11")` for `features.x11`."""

MAX_INTEGER = (1 << 53) - 1
"""Beyond it JSON's numbers are not exact (RFC 8785 writes them as doubles)."""

RESERVED = ("package", "platforms")
"""Parts of the configuration that eka fills in."""

_KEYS = ("type", "default", "values", "items", "minimum", "maximum", "doc")
_TYPES: tuple[Type, ...] = ("string", "boolean", "integer", "float", "list")
_EXPECTED = {
    "string": "a string",
    "boolean": "a boolean",
    "integer": "an integer",
    "float": "a number",
    "list": "an array",
}


class Option(NamedTuple):
    """`default` is None if a value must be given; `values`, if any, are all that are allowed.

    `items` is the type of a list's elements, else None; the bounds hold for numbers.
    """

    type: Type
    default: Value | None = None
    values: tuple[Value, ...] = ()
    items: Type | None = None
    minimum: float | None = None
    maximum: float | None = None
    doc: str | None = None

    def check(self, value: object, path: Path) -> Value:
        """`value` as TOML has it, arrays as tuples, integers as floats where those are wanted.

        Raises shapes.Problem.
        """
        if self.type == "list":
            if not isinstance(value, (list, tuple)):
                raise wrong_kind(path, "an array", value)
            each = self._replace(type=self.items or "string", items=None)
            return tuple(
                cast(Scalar, each.check(item, (*path, number))) for number, item in enumerate(value)
            )
        checked = _scalar(self.type, value, path)
        if self.values and checked not in self.values:
            allowed = ", ".join(map(_shown, self.values))
            message = f"`{dotted(path)}` must be one of {allowed}, not {_shown(checked)}"
            raise Problem(message, path)
        self._check_bounds(checked, path)
        return checked

    def _check_bounds(self, value: Scalar, path: Path) -> None:
        if isinstance(value, (str, bool)):
            return
        if self.minimum is not None and value < self.minimum:
            raise Problem(f"`{dotted(path)}` must be at least {_shown(self.minimum)}", path)
        if self.maximum is not None and value > self.maximum:
            raise Problem(f"`{dotted(path)}` must be at most {_shown(self.maximum)}", path)


Options = Mapping[Key, Option]
Values = Mapping[Key, Value]


class OptionsShape:
    """The table `[config]`: options by name, in groups of any depth."""

    def check(self, value: object, path: Path) -> dict[Key, Option]:
        found: dict[Key, Option] = {}
        self._group(table(value, path, "a table of options"), path, (), found)
        return found

    def _group(
        self, group: Mapping[str, object], path: Path, at: Key, found: dict[Key, Option]
    ) -> None:
        for key, item in group.items():
            here = (*path, key)
            name = LABEL.key(key, here)
            if not at and name in RESERVED:
                hint = f"name it otherwise: eka fills in `{name}`"
                raise Problem(f"`{dotted(here)}` is reserved", here, hint=hint, at_key=True)
            if not isinstance(item, dict):
                found[(*at, name)] = _from_value(item, here)
            elif any(not isinstance(item.get(word, {}), dict) for word in ("type", "default")):
                found[(*at, name)] = _option(item, here)
            elif item:
                self._group(item, here, (*at, name), found)
            else:
                raise Problem(f"`{dotted(here)}` is empty", here, hint='add `type = "string"`')

    def schema(self) -> Json:
        scalar = {"type": ["string", "boolean", "number", "array"]}
        option = {
            "type": "object",
            "properties": {
                "type": {"enum": list(_TYPES)},
                "default": scalar,
                "values": {"type": "array", "items": scalar},
                "items": {"enum": list(_TYPES[:-1])},
                "minimum": {"type": "number"},
                "maximum": {"type": "number"},
                "doc": {"type": "string"},
            },
            "anyOf": [{"required": ["type"]}, {"required": ["default"]}],
            "additionalProperties": False,
        }
        group = {"type": "object", "additionalProperties": {"type": ["object", "array"]}}
        return {"type": "object", "additionalProperties": {"anyOf": [scalar, option, group]}}


class ValuesShape:
    """One variant: values for options, in the groups that they have in `[config]`."""

    def check(self, value: object, path: Path) -> dict[Key, tuple[object, Path]]:
        """Nothing is known about the options yet: see `conform`."""
        found: dict[Key, tuple[object, Path]] = {}
        self._group(table(value, path, "a table of values"), path, (), found)
        return found

    def _group(
        self,
        group: Mapping[str, object],
        path: Path,
        at: Key,
        found: dict[Key, tuple[object, Path]],
    ) -> None:
        for key, item in group.items():
            here = (*path, key)
            name = LABEL.key(key, here)
            if isinstance(item, dict):
                self._group(item, here, (*at, name), found)
            else:
                found[(*at, name)] = (item, here)

    def schema(self) -> Json:
        return {"type": "object"}


def conform(options: Options, key: Key, value: object, path: Path) -> Value:
    """`value` for the option `key`, checked. Raises shapes.Problem."""
    if key not in options:
        from difflib import get_close_matches

        known = [".".join(option) for option in options]
        near = get_close_matches(".".join(key), known, 1)
        hint = f"write `{near[0]}`" if near else f"declare it in `[config]`: {'.'.join(key)}"
        message = f"`{'.'.join(key)}` is no option of `[config]`"
        raise Problem(message, path, hint=hint, at_key=True)
    return options[key].check(value, path)


def _from_value(value: object, path: Path) -> Option:
    """`jobs = 4` for `jobs = { type = "integer", default = 4 }`."""
    type_ = _type_of(value, path)
    items = None
    if isinstance(value, list):
        items = _type_of(value[0], (*path, 0)) if value else "string"
    bare = Option(type_, items=items)
    return bare._replace(default=bare.check(value, path))


def _option(item: dict[str, object], path: Path) -> Option:
    for key in item:
        if key not in _KEYS:
            known = ", ".join(f"`{name}`" for name in _KEYS)
            message = f"unknown key `{dotted((*path, key))}`"
            raise Problem(message, (*path, key), hint=f"use one of {known}", at_key=True)
    if "type" in item:
        type_ = cast(Type, Choice(*_TYPES).check(item["type"], (*path, "type")))
    else:
        type_ = _from_value(item["default"], (*path, "default")).type
    bare = Option(type_, items=_items(item, type_, path), doc=_doc(item, path))
    bare = _with_bounds(bare, item, path)
    if "values" in item:
        bare = bare._replace(values=_values(bare, item["values"], (*path, "values")))
    if "default" not in item:
        return bare
    return bare._replace(default=bare.check(item["default"], (*path, "default")))


def _items(item: dict[str, object], type_: Type, path: Path) -> Type | None:
    here = (*path, "items")
    if type_ != "list":
        if "items" in item:
            raise Problem(f"`{dotted(here)}` is for lists only", here, at_key=True)
        return None
    if "items" in item:
        return cast(Type, Choice(*_TYPES[:-1]).check(item["items"], here))
    default = item.get("default")
    first = default[0] if isinstance(default, list) and default else ""
    return _type_of(first, (*path, "default", 0))


def _doc(item: dict[str, object], path: Path) -> str | None:
    doc = item.get("doc")
    if doc is not None and not isinstance(doc, str):
        raise wrong_kind((*path, "doc"), "a string", doc)
    return doc


def _with_bounds(option: Option, item: dict[str, object], path: Path) -> Option:
    numeric: Type | None = option.items if option.type == "list" else option.type
    for word in ("minimum", "maximum"):
        if word in item and numeric not in ("integer", "float"):
            here = (*path, word)
            raise Problem(f"`{dotted(here)}` is for numbers only", here, at_key=True)
    least, most = (
        _number(item[word], (*path, word)) if word in item else None
        for word in ("minimum", "maximum")
    )
    return option._replace(minimum=least, maximum=most)


def _values(option: Option, values: object, path: Path) -> tuple[Value, ...]:
    if not isinstance(values, list):
        raise wrong_kind(path, "an array", values)
    if not values:
        raise Problem(f"`{dotted(path)}` is empty", path, hint="list what is allowed")
    each = option._replace(type=option.items, items=None) if option.items else option
    return tuple(each.check(value, (*path, number)) for number, value in enumerate(values))


def _type_of(value: object, path: Path) -> Type:
    types: dict[type, Type] = {
        str: "string",
        bool: "boolean",
        int: "integer",
        float: "float",
        list: "list",
    }
    if type(value) not in types or (type(value) is list and isinstance(path[-1], int)):
        expected = "a string, boolean, number or an array of such"
        raise wrong_kind(path, expected, value)
    return types[type(value)]


def _scalar(type_: Type, value: object, path: Path) -> Scalar:
    wanted: dict[str, tuple[type, ...]] = {
        "string": (str,),
        "boolean": (bool,),
        "integer": (int,),
        "float": (float, int),
    }
    if type(value) not in wanted[type_]:
        raise wrong_kind(path, _EXPECTED[type_], value)
    if type(value) is int and abs(value) > MAX_INTEGER:
        message = f"`{dotted(path)}` is beyond the integers that JSON has exactly"
        raise Problem(message, path, hint=f"use at most {MAX_INTEGER}, or a string")
    if type(value) is float and not math.isfinite(value):
        raise Problem(f"`{dotted(path)}` must be a finite number", path)
    return float(cast(float, value)) if type_ == "float" else cast(Scalar, value)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value[:60]}"'
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, (int, float)) else kind(value)


def _number(value: object, path: Path) -> float:
    number = _scalar("float", value, path)
    assert isinstance(number, float)  # asked for
    return number
