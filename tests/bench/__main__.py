"""`make bench`: eka against its peers on this host; `make bench BENCH=start` for one of them."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path

from tests.bench.measure import show

PRODUCT = ("start", "store")  # those of `eka bench`
BENCHMARKS = (
    *PRODUCT,
    "caches",
    "update",
    "export",
    "scale",
    "views",
    "atoms",
    "daemon",
    "evaluation",
    "build",
)


def main(names: list[str]) -> int:
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        print(f"error: no benchmark {', '.join(sorted(unknown))}; there are {BENCHMARKS}")
        return 2
    # Where this is set, every start of a checkout would compile eka; installed, it is compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    results: dict[str, object] = {}
    output = Path("bench-results.json").absolute()
    for name in names or BENCHMARKS:
        if name in PRODUCT:
            measured = import_module(f"eka.bench.{name}").run()
            results[name] = [show(result) for result in measured]
        else:
            results[name] = import_module(f"tests.bench.bench_{name}").run()
    output.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
