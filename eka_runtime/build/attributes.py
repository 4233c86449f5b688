"""What a derivation says about its build: plain variables, or structured attributes in `__json`.

Attributes that only the builder reads are not looked at here. Out of scope: what follows from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from eka_runtime.errors import FormatError
from eka_runtime.nix.derivation import Derivation

STRUCTURED = "__json"


class Attributes(NamedTuple):
    """`structured` is None for a derivation of plain variables."""

    name: str
    env: Mapping[str, str]
    structured: Mapping[str, Any] | None

    @classmethod
    def of(cls, drv: Derivation) -> Attributes:
        """Raises FormatError for structured attributes that are none."""
        text = drv.env.get(STRUCTURED)
        if text is None:
            return cls(drv.name, drv.env, None)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"`__json` of derivation {drv.name} is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise FormatError(f"`__json` of derivation {drv.name} is not an object")
        return cls(drv.name, drv.env, value)

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings; () if it is not stated. Raises FormatError."""
        return self.optional_strings(key) or ()

    def optional_strings(self, key: str) -> tuple[str, ...] | None:
        if self.structured is None:
            text = self.env.get(key)
            return None if text is None else tuple(text.split())
        value = self.structured.get(key)
        return None if value is None else string_list(value, f"`{key}` of {self.name}")

    def flag(self, key: str, default: bool = False) -> bool:
        if self.structured is None:
            return self.env[key] == "1" if key in self.env else default
        value = self.structured.get(key, default)
        if not isinstance(value, bool):
            raise FormatError(f"`{key}` of derivation {self.name} is not true or false")
        return value

    def table(self, key: str) -> Mapping[str, Any]:
        """An object of structured attributes; empty if it is not stated."""
        value = (self.structured or {}).get(key, {})
        if not isinstance(value, dict):
            raise FormatError(f"`{key}` of derivation {self.name} is not an object")
        return value


def string_list(value: object, what: str) -> tuple[str, ...]:
    """Raises FormatError that begins with `what`."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FormatError(f"{what} is not a list of strings")
    return tuple(value)
