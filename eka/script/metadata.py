"""What the TOML of a script header may say, and its checks.

Constraint: cold path only. Every complaint names line and column of the script. Why not pydantic:
importing it takes longer than all else that a first start does. Out of scope: what packages, paths
and interpreters mean; nothing is looked up here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tomli

from eka.script.locate import Located, locate
from eka.script.stated import VARIABLE, Place, nearest, quoted
from eka_runtime.errors import HeaderError

TITLE = "eka script header"
TEXT = r"[^\x00]+"
LIMIT = r"[a-z-]+=[0-9A-Za-z.]+"
TOGGLE = "true or false"


class ScriptMetadata(NamedTuple):
    """The commented TOML block at the head of a script that `eka-run` starts.

    `stated` are the keys that it has; the others are as if it said nothing.
    """

    interpreter: str | None = None
    packages: tuple[str, ...] = ()
    network: bool | str = False
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    home: str = "private"
    limits: tuple[str, ...] = ()
    nesting: bool = False
    env: tuple[str, ...] = ()
    locked: bool = False
    lazy: bool = False
    stated: frozenset[str] = frozenset()


class Key(NamedTuple):
    """What a key takes: `true` and `false` if `switch`, one of `words`, a text or a list of texts.

    Texts fit `pattern` in full.
    """

    expected: str
    example: str
    doc: str
    pattern: str = ""
    words: tuple[str, ...] = ()
    switch: bool = False
    listed: bool = False

    def takes(self, value: object) -> bool:
        """A value, or an element of a list."""
        if isinstance(value, bool):
            return self.switch
        if not isinstance(value, str):
            return False
        return value in self.words or bool(self.pattern and re.fullmatch(self.pattern, value))

    def schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12)."""
        forms: list[dict[str, Any]] = [{"type": "boolean"}] if self.switch else []
        forms += [{"type": "string", "enum": list(self.words)}] if self.words else []
        forms += [{"type": "string", "pattern": f"^{self.pattern}$"}] if self.pattern else []
        form = forms[0] if len(forms) == 1 else {"anyOf": forms}
        return {"type": "array", "items": form} if self.listed else form


def _texts(example: str, doc: str, pattern: str = TEXT) -> Key:
    return Key("a list of strings", example, doc, pattern, listed=True)


def _switch(doc: str) -> Key:
    return Key(TOGGLE, "true", doc, switch=True)


KEYS: Mapping[str, Key] = {
    "interpreter": Key(
        "a string",
        '"python3"',
        "Program that runs the script, with arguments if need be: a name in the"
        " packages' bin/, or a path below /nix/store. Default: the script's own `#!` if that is a"
        " store path, otherwise `sh`.",
        TEXT,
    ),
    "packages": _texts(
        '["./result"]',
        "Store paths, links to store paths, or atoms. Stated packages and their closure"
        " are all there is; without this key and flags, the file is scanned for store paths.",
    ),
    "network": Key(
        'true, false, "loopback", "host" or "off"',
        "false",
        "`true` or `host` grants the host's network, `loopback` one of the run's own"
        " with nothing but a loopback, `false` or `off` none.",
        words=("off", "loopback", "host"),
        switch=True,
    ),
    "read": _texts(
        '["~/data"]', "Paths to show read-only; relative to the script, `~` is the home."
    ),
    "write": _texts('["."]', "Paths to show writable; as `read`."),
    "devices": _texts(
        '["/dev/kvm"]', "Devices to show, such as `/dev/kvm`, by names that the profile has."
    ),
    "home": Key(
        '"private", "persistent" or "none"',
        '"persistent"',
        "`private`: an empty one for each run; `persistent`: a directory that only this"
        " script has; `none`.",
        words=("private", "persistent", "none"),
    ),
    "limits": _texts(
        '["memory=512M", "time=1m"]',
        "`memory=512M`, `pids=64`, `cpu=10s`, `time=1m`, `files=256`, `file-size=1G`;"
        " `none` for no limit.",
        LIMIT,
    ),
    "nesting": _switch(
        "Let the program make namespaces and mounts of its own: containers, eka in eka."
    ),
    "env": _texts(
        '["NAME", "NAME=value"]',
        "`NAME` passes the caller's variable on, `NAME*` all that begin so, `NAME=value` sets one.",
        VARIABLE,
    ),
    "locked": _switch("Refuse to run unless FILE.lock is there and fits."),
    "lazy": _switch("Start before everything came, where services or caches and the host can."),
}

_KINDS = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    list: "a list",
    dict: "a table",
}


At = Callable[[int], Place]


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
    for key, value in data.items():
        if (refused := _refused(KEYS[key], value)) is not None:
            raise _wrong_value(key, value, refused, found[key], at)
    values: dict[str, Any] = {**data}
    values |= {key: tuple(values[key]) for key in data if KEYS[key].listed}
    return ScriptMetadata(**values, stated=frozenset(data)), found


def schema() -> dict[str, Any]:
    """JSON Schema of the block, with what holds where a key is not there."""
    properties = {
        name: {
            **key.schema(),
            "description": key.doc,
            "default": ScriptMetadata._field_defaults[name],
        }
        for name, key in KEYS.items()
    }
    return {
        "title": TITLE,
        "description": (ScriptMetadata.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


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


def _refused(key: Key, value: object) -> int | None:
    """Which element of a list is wrong; -1 for the value itself, None for neither."""
    if not key.listed:
        return None if key.takes(value) else -1
    if not isinstance(value, list):
        return -1
    return next((number for number, item in enumerate(value) if not key.takes(item)), None)


def _wrong_value(name: str, value: Any, number: int, found: Located, at: At) -> HeaderError:
    key, is_element = KEYS[name], number >= 0
    elements = found.elements
    where = at(elements[number] if is_element and number < len(elements) else found.value)
    value = value[number] if is_element else value
    hint = f"write it as in `{name} = {key.example}`"
    expected = "a string" if is_element else key.expected
    if key.words and isinstance(value, str):
        return where.error(f"`{name}` must be {expected}, not {quoted(value)}", hint=hint)
    if not isinstance(value, str) or expected != "a string":
        kind = _KINDS.get(type(value), "a date or time")
        what = f"each element of `{name}`" if is_element else f"`{name}`"
        return where.error(f"{what} must be {expected}, not {kind}", hint=hint)
    if not value:
        return where.error(f"empty string in `{name}`", hint=hint)
    if "\0" in value:
        return where.error(f"null character in `{name}`", hint=hint)
    what = "limit" if name == "limits" else "variable"
    return where.error(f"{quoted(value)} is not a {what}", hint=hint)
