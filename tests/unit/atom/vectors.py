"""Golden vectors of atoms: inputs and results of upstream's tests and publications."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors/eka.json").read_text("utf-8")
)

MINIMAL = '[package]\nlabel = "foo"\nversion = "0.1.0"\n\n[compose.as]\nnix = "."\n'
