"""Canonical JSON (RFC 8785) of configurations, and the hashes that are made of it.

    config hash   = BLAKE3(canonical JSON of the effective configuration)
    artifact id   = BLAKE3(atom id ‖ version ‖ config hash)

where the atom id is its 32 raw bytes, the version its text in UTF-8, and the config hash its 32 raw
bytes: the outer two have a fixed length, so no two inputs run together. See spec/config.md.
Out of scope: what a configuration is made of (`config.py`).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import TypeAlias

import blake3

from eka.atom.identity import decode_id, encode_id
from eka_runtime.errors import OptionError

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"

MAX_INTEGER = 2**53 - 1
"""RFC 7493: larger ones are not the same number for every reader of JSON."""
MAX_DEPTH = 32


def canonical_json(value: Value) -> bytes:
    """RFC 8785. Raises OptionError for what `normalize` would not let through."""
    import rfc8785

    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise OptionError(f"not a value of JSON: {error}") from error


def normalize(value: object, where: str) -> Value:
    """A value as TOML or JSON gave it, in the one spelling that it has here.

    A number without a fraction is an integer, however it was written. Raises OptionError, with
    `where`, for dates, NaN, infinities, integers beyond 2^53 and text that is not Unicode.
    """
    return _normalize(value, where, 0)


def _normalize(value: object, where: str, depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise OptionError(f"`{where}` is nested too deeply")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int | float):
        return _number(value, where)
    if isinstance(value, list | tuple):
        return [_normalize(one, f"{where}[{i}]", depth + 1) for i, one in enumerate(value)]
    if isinstance(value, Mapping):
        return {
            _text(key, where): _normalize(one, f"{where}.{key}", depth + 1)
            for key, one in value.items()
        }
    raise OptionError(
        f"`{where}` is a {type(value).__name__}, which JSON does not have",
        hint="write it as a string, in quotes",
    )


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise OptionError(f"a key in `{where}` is not a string: {value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise OptionError(f"`{where}` is not Unicode text: {value!r}") from None
    if "\0" in value:
        raise OptionError(f"`{where}` has a null character, which Nix's strings cannot hold")
    return value


def _number(value: int | float, where: str) -> int | float:
    if not math.isfinite(value):
        raise OptionError(f"`{where}` is {value}, which JSON does not have")
    whole = int(value)
    if whole == value:
        if abs(whole) > MAX_INTEGER:
            raise OptionError(
                f"`{where}` is {value}: numbers beyond 2^53 are not the same for every reader",
                hint="write it as a string",
            )
        return whole
    return value


def config_digest(config: Mapping[str, Value]) -> bytes:
    """The config hash: 32 bytes."""
    return blake3.blake3(canonical_json(dict(config))).digest()


def config_hash_text(digest: bytes) -> str:
    """As it is shown: `blake3-` and standard base64, as eka's other digests."""
    return "blake3-" + base64.b64encode(digest).decode("ascii")


def parse_config_hash(text: str) -> bytes:
    """Raises OptionError for what is not the text of a config hash."""
    kind, _, encoded = text.partition("-")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except ValueError:
        digest = b""
    if kind != "blake3" or len(digest) != 32 or config_hash_text(digest) != text:
        raise OptionError(f"`{text}` is not a config hash")
    return digest


def artifact_id(atom_id: str, version: str, digest: bytes) -> str:
    """In the alphabet of atom ids: 52 characters of lower-case base32hex.

    `atom_id` is such a text, too; raises FormatError when it is not.
    """
    raw = decode_id(atom_id)
    if len(digest) != 32:
        raise OptionError("a config hash has 32 bytes")
    return encode_id(blake3.blake3(raw + version.encode("utf-8") + digest).digest())
