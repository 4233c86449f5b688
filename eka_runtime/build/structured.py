"""Structured attributes as builders find them: `.attrs.json`, and `.attrs.sh` for bash.

The shell file has what bash can hold: strings, integers, true and false, null, and lists and
objects of those. A list or object with anything else in it is left out whole, as Nix does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eka_runtime.build.attributes import string_list
from eka_runtime.nix.path import StorePath

if TYPE_CHECKING:
    from eka_runtime.build.environment import Graph

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def structured_json(
    stated: Mapping[str, Any], outputs: Mapping[str, str], graph: Graph
) -> dict[str, Any]:
    """The attributes with the output paths, and the graphs that were asked for, put in.

    Raises FormatError.
    """
    value = {**stated, "outputs": dict(outputs)}
    wanted = stated.get("exportReferencesGraph")
    for key, paths in (wanted if isinstance(wanted, dict) else {}).items():
        texts = string_list(paths, f"`exportReferencesGraph.{key}`")
        value[key] = graph.describe(StorePath.parse(text) for text in texts)
    return value


def structured_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def shell_text(value: Mapping[str, Any]) -> str:
    lines = []
    for key, item in sorted(value.items()):
        if _NAME.fullmatch(key) and (declared := _declaration(key, item)) is not None:
            lines.append(declared + "\n")
    return "".join(lines)


def _declaration(key: str, item: object) -> str | None:
    if (text := _scalar(item)) is not None:
        return f"declare {key}={text}"
    if isinstance(item, list):
        texts = [_scalar(element) for element in item]
        if None not in texts:
            return f"declare -a {key}=({''.join(f'{text} ' for text in texts)})"
    if isinstance(item, dict):
        pairs = [(_quote(name), _scalar(element)) for name, element in sorted(item.items())]
        if all(text is not None for _, text in pairs):
            return f"declare -A {key}=({''.join(f'[{name}]={text} ' for name, text in pairs)})"
    return None


def _scalar(item: object) -> str | None:
    if isinstance(item, str):
        return _quote(item)
    if isinstance(item, bool):
        return "1" if item else ""
    if isinstance(item, int):
        return str(item)
    if isinstance(item, float):
        return str(int(item)) if item.is_integer() else None
    return "''" if item is None else None


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
