"""What every model of the OCI runtime-spec shares: plain immutable values, kept unknown fields.

Field names are exactly those of config.json, with an underscore behind a word of Python's. Reading
a document that somebody wrote checks every value (`judge.py`, by pydantic); making one here does
not, since types are checked before it runs, and since pydantic takes longer to be imported than a
sandbox takes to start. Rules beyond the schema are `check.py`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn, Self, dataclass_transform

from eka_runtime.errors import SpecError


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Model:
    """Immutable; sequences are tuples. Unknown fields of a document are written back.

    A field that was never set is absent from the JSON, and reads as None.
    """

    field_names: ClassVar[tuple[str, ...]] = ()
    _needed: ClassVar[frozenset[str]] = frozenset()
    _unknown: Mapping[str, Any]

    def __init_subclass__(cls) -> None:
        own = tuple(cls.__annotations__)  # of this class alone
        cls.field_names = (*cls.field_names, *own)
        cls._needed = cls._needed | {name for name in own if name not in vars(cls)}

    def __init__(self, **fields: Any) -> None:
        # JSON's null is a value; None is our way to leave a field out.
        fields = {name: value for name, value in fields.items() if value is not None}
        known = fields.keys() & self.field_names
        if len(known) != len(fields) or not self._needed <= known:
            wrong = sorted((fields.keys() - known) | (self._needed - known))
            raise TypeError(f"{type(self).__name__}: unknown or missing: {', '.join(wrong)}")
        vars(self).update(fields, _unknown={})

    @classmethod
    def of_document(cls, fields: Mapping[str, Any], unknown: Mapping[str, Any]) -> Self:
        """Of fields that were checked already."""
        made = cls(**fields)
        vars(made)["_unknown"] = unknown
        return made

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._set().items())
        return f"{type(self).__name__}({fields})"

    def replace(self, **changes: object) -> Self:
        """A copy with fields changed, not checked again; None removes a field."""
        return self.of_document(self._set() | changes, self._unknown)

    def to_data(self) -> dict[str, Any]:
        """Plain JSON data; fields that were never set are absent."""
        fields = {name.rstrip("_"): _plain(value) for name, value in self._set().items()}
        return {**fields, **self._unknown}

    def _set(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_unknown"}


def _plain(value: Any) -> Any:
    if isinstance(value, Model):
        return value.to_data()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


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
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif _PLAIN_KEY.match(part):
            parts.append(f".{part}")
        else:
            parts.append(f"[{json.dumps(part, ensure_ascii=False)}]")
    return "".join(parts)
