"""Golden data recomputed from snix and Nix sources, as pytest parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet

_FILE = Path(__file__).parents[2] / "vectors" / "snix.json"
_ALL: list[dict[str, Any]] = json.loads(_FILE.read_text())["vectors"]


def of_kind(*kinds: str) -> list[ParameterSet]:
    """(input, output) of each vector; an unknown kind fails at collection."""
    found = [vector for vector in _ALL if vector["kind"] in kinds]
    if {vector["kind"] for vector in found} != set(kinds):
        raise LookupError(f"no vectors of some kind among {kinds}")
    return [pytest.param(v["input"], v["output"], id=v["id"]) for v in found]


def by_id(name: str) -> dict[str, Any]:
    return next(vector for vector in _ALL if vector["id"] == name)
