"""Builds beside Nix: many that do nothing, each its own overhead, and one that writes a gigabyte.

Both build the same derivations with the same number of jobs in their own sandboxes, in turns, each
round from stores without outputs. eka makes what it built durable before it is valid, Nix does not.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.builds import Derivations, instantiate, nix_options
from tests.requirements import require
from tests.seed import NIX_CONFIG

_ROUNDS = 3
_JOBS = "2"


def run() -> list[object]:
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        made = instantiate(Path(name) / "own", "many.nix")
        found: list[object] = [
            _compare(made, Path(name), "500 derivations that do nothing", "many", 501),
            _compare(made, Path(name), "one that writes 1 GB", "large", 1),
        ]
        subprocess.run(["chmod", "-R", "u+w", name], check=True)
        return found


def _compare(made: Derivations, place: Path, title: str, name: str, builds: int) -> object:
    times: dict[str, list[float]] = {"eka": [], "nix": []}
    for number in range(_ROUNDS):
        for who, build in (("eka", _eka), ("nix", _nix)):
            # Removed at the end only: ext4 looks for a while at each inode that was deleted lately,
            # and a new link then costs a millisecond.
            store = place / f"{name}-{number}-{who}"
            times[who].append(build(made, store, made.drvs[name]))
            _forget_contents(store)
    medians = {who: statistics.median(values) for who, values in times.items()}
    ratio = medians["eka"] / medians["nix"]
    print(f"\n{title}, -j {_JOBS}")
    for who, seconds in medians.items():
        print(f"{who:6}{seconds:>10.2f} s{1000 * seconds / builds:>10.0f} ms each")
    print(f"eka ÷ nix {ratio:.2f}")
    return {"title": title, "seconds": times, "ratio": ratio}


def _forget_contents(store: Path) -> None:
    """So that no round waits for the disk to write what the one before has made."""
    for directory, _, names in os.walk(store):
        for name in names:
            file = Path(directory) / name
            if file.lstat().st_size > 1 << 27:
                file.chmod(0o600)
                os.truncate(file, 0)


def _eka(made: Derivations, store: Path, drv: str) -> float:
    eka = [sys.executable, "-m", "eka", "--store", os.fspath(store), "-q"]
    with made.stream.open("rb") as stream:
        subprocess.run([*eka, "store", "import"], stdin=stream, check=True, capture_output=True)
    return _timed([*eka, "build", "--no-link", "-j", _JOBS, drv])


def _nix(made: Derivations, store: Path, drv: str) -> float:
    nix = [require("nix-store"), "--store", os.fspath(store), *nix_options()]
    with made.stream.open("rb") as stream:
        subprocess.run([*nix, "--import"], stdin=stream, check=True, capture_output=True)
    return _timed([*nix, "--realise", "-j", _JOBS, drv])


def _timed(command: list[str]) -> float:
    start = time.perf_counter()
    environ = os.environ | {"NIX_CONFIG": NIX_CONFIG}
    subprocess.run(command, check=True, capture_output=True, env=environ)
    return time.perf_counter() - start
