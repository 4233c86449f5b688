"""What the TOML of a script header may say, and its checks.

Constraint: cold path only (pydantic costs ten times the container runtime). Every complaint names
line and column of the script. Out of scope: what packages, paths and interpreters mean; nothing is
looked up here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import tomli
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from eka.script.locate import Located, locate
from eka.script.stated import VARIABLE, Place, nearest, quoted
from eka_runtime.errors import HeaderError

Text = Annotated[str, Field(strict=True, min_length=1, pattern=r"^[^\x00]+$")]
Variable = Annotated[str, Field(strict=True, pattern=f"^{VARIABLE}$")]
Limit = Annotated[str, Field(strict=True, pattern=r"^[a-z-]+=[0-9A-Za-z.]+$")]
Home = Literal["private", "persistent", "none"]
Network = StrictBool | Literal["off", "loopback", "host"]
Texts = tuple[Text, ...]


class ScriptMetadata(BaseModel):
    """The commented TOML block at the head of a script that `eka-run` starts."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="eka script header")

    interpreter: Text | None = Field(
        default=None,
        description="Program that runs the script, with arguments if need be: a name in the"
        " packages' bin/, or a path below /nix/store. Default: the script's own `#!` if that is a"
        " store path, otherwise `sh`.",
    )
    packages: Texts = Field(
        default=(),
        description="Store paths, links to store paths, or atoms. Stated packages and their closure"
        " are all there is; without this key and flags, the file is scanned for store paths.",
    )
    network: Network = Field(
        default=False,
        description="`true` or `host` grants the host's network, `loopback` one of the run's own"
        " with nothing but a loopback, `false` or `off` none.",
    )
    read: Texts = Field(
        default=(), description="Paths to show read-only; relative to the script, `~` is the home."
    )
    write: Texts = Field(default=(), description="Paths to show writable; as `read`.")
    devices: Texts = Field(
        default=(),
        description="Devices to show, such as `/dev/kvm`, by names that the profile has.",
    )
    home: Home = Field(
        default="private",
        description="`private`: an empty one for each run; `persistent`: a directory that only this"
        " script has; `none`.",
    )
    limits: tuple[Limit, ...] = Field(
        default=(),
        description="`memory=512M`, `pids=64`, `cpu=10s`, `time=1m`, `files=256`, `file-size=1G`;"
        " `none` for no limit.",
    )
    nesting: bool = Field(
        default=False,
        strict=True,
        description="Let the program make namespaces and mounts of its own: containers, eka in"
        " eka.",
    )
    env: tuple[Variable, ...] = Field(
        default=(),
        description="`NAME` passes the caller's variable on, `NAME*` all that begin so,"
        " `NAME=value` sets one.",
    )
    locked: bool = Field(
        default=False, strict=True, description="Refuse to run unless FILE.lock is there and fits."
    )
    lazy: bool = Field(
        default=False,
        strict=True,
        description="Start before everything came, where services or caches and the host can.",
    )


KEYS = tuple(ScriptMetadata.model_fields)

_EXPECTED = {
    "interpreter": "a string",
    "network": 'true, false, "loopback", "host" or "off"',
    "nesting": "true or false",
    "locked": "true or false",
    "lazy": "true or false",
    "home": '"private", "persistent" or "none"',
}
_EXAMPLES = {
    "interpreter": '"python3"',
    "packages": '["./result"]',
    "network": "false",
    "nesting": "true",
    "devices": '["/dev/kvm"]',
    "home": '"persistent"',
    "read": '["~/data"]',
    "write": '["."]',
    "env": '["NAME", "NAME=value"]',
    "locked": "true",
    "lazy": "true",
    "limits": '["memory=512M", "time=1m"]',
}
_KINDS = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    list: "a list",
    dict: "a table",
}


def parse_metadata(
    text: str, place: Callable[[int, int], Place]
) -> tuple[ScriptMetadata, Mapping[str, Located]]:
    """Also returns where each key stands. Raises HeaderError.

    `place` translates line and column of `text`, both from 1, into a place in the script.
    """
    data = _parse_toml(text, place)
    found = locate(text)

    def at(offset: int) -> Place:
        return place(*line_and_column(text, offset))

    for key in data:
        if key not in KEYS:
            raise _unknown_key(key, at(found[key].key))
    try:
        metadata = ScriptMetadata.model_validate(data)
    except ValidationError as error:
        # Pydantic lists them in the order of the model; people read from the top.
        first = min(error.errors(), key=lambda detail: _offset(detail["loc"], found))
        where = at(_offset(first["loc"], found))
        raise _wrong_value(first["loc"], first["input"], where) from None
    return metadata, found


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _parse_toml(text: str, place: Callable[[int, int], Place]) -> dict[str, object]:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        message = error.msg[:1].lower() + error.msg[1:]
        where = place(error.lineno, error.colno)
        raise where.error(f"the header is not valid TOML: {message}") from None
    except (ValueError, RecursionError) as error:
        # Integers of thousands of digits, keys and brackets nested hundreds deep: tomli refuses
        # those without a position.
        raise place(1, 1).error(f"the header is not valid TOML: {error}") from None


def _unknown_key(key: str, where: Place) -> HeaderError:
    near = nearest(key, KEYS)
    known = ", ".join(f"`{name}`" for name in KEYS)
    hint = f"write `{near}`" if near else f"use one of {known}"
    return where.error(f"unknown key {quoted(key)}", hint=hint)


def _offset(location: tuple[int | str, ...], found: Mapping[str, Located]) -> int:
    key, *rest = location
    where = found[str(key)]
    if rest and isinstance(rest[0], int) and rest[0] < len(where.elements):
        return where.elements[rest[0]]
    return where.value


def _wrong_value(location: tuple[int | str, ...], value: object, where: Place) -> HeaderError:
    key, is_element = str(location[0]), isinstance((*location, "")[1], int)
    hint = f"write it as in `{key} = {_EXAMPLES[key]}`"
    expected = "a string" if is_element else _EXPECTED.get(key, "a list of strings")
    if key in ("network", "home") and isinstance(value, str):
        return where.error(f"`{key}` must be {expected}, not {quoted(value)}", hint=hint)
    if not isinstance(value, str) or expected != "a string":
        kind = _KINDS.get(type(value), "a date or time")
        what = f"each element of `{key}`" if is_element else f"`{key}`"
        return where.error(f"{what} must be {expected}, not {kind}", hint=hint)
    if not value:
        return where.error(f"empty string in `{key}`", hint=hint)
    if "\0" in value:
        return where.error(f"null character in `{key}`", hint=hint)
    what = "limit" if key == "limits" else "variable"
    return where.error(f"{quoted(value)} is not a {what}", hint=hint)
