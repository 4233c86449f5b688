"""Evaluation: what is warm against a warm script, and a cold one against Nix on its own.

Cold: the atom has changed, so the evaluator is started, in its bundle and with its daemon. Nix gets
the same expression, restricted and without a store, from the same machine.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
from itertools import count
from pathlib import Path

from tests.bench.measure import Contender, race, report
from tests.requirements import require

WARM_ROUNDS, COLD_ROUNDS = 30, 15
_SCRIPT = "eka-run script"
_NIX = "nix-instantiate"
_MANIFEST = '[package]\nlabel = "tool"\nversion = "0.1.0"\n[compose.as]\nnix = "."\n'
_PROGRAM = """{
  value = builtins.genList (i: i * 2) 100;
  tool = derivation {
    name = "tool"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin";
    args = [ "-c" "mkdir -p $out/bin; echo '#!/bin/sh' > $out/bin/tool; chmod +x $out/bin/tool" ];
  };
}
"""


def run() -> list[object]:
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        place = Path(name)
        os.environ |= {
            "EKA_STORE": f"{name}/store",
            "XDG_CACHE_HOME": f"{name}/cache",
            "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
        }
        atom = place / "tool"
        atom.mkdir()
        (atom / "atom.toml").write_text(_MANIFEST)
        (atom / "default.nix").write_text(_PROGRAM)
        return [_warm(atom), _cold(atom)]


def _warm(atom: Path) -> object:
    script = atom.parent / "script"
    header = '# /// eka\n# packages = ["./tool#tool"]\n# ///'
    script.write_text(f"#!/usr/bin/env eka-run\n{header}\ntool\n")
    script.chmod(0o755)
    plain = atom.parent / "plain"
    plain.write_text("#!/usr/bin/env eka-run\n# /// eka\n# packages = []\n# ///\nexit 0\n")
    plain.chmod(0o755)
    cwd = os.fspath(atom)
    contenders = [
        Contender(_SCRIPT, [os.fspath(plain)], cwd=cwd),
        Contender("eka-run script with .#tool", [os.fspath(script)], cwd=cwd),
        Contender("eka run .#tool", ["eka", "run", ".#tool"], cwd=cwd),
        Contender("eka eval", ["eka", "eval", ".#value"], cwd=cwd),
    ]
    return report("warm", race(contenders, rounds=WARM_ROUNDS, warmup=3), [_SCRIPT])


def _cold(atom: Path) -> object:
    nix, numbers = require("nix-instantiate"), count()
    plain = atom.parent / "plain.nix"
    shutil.copy(atom / "default.nix", plain)

    def change() -> None:
        (atom / "default.nix").write_text(f"{_PROGRAM}# {next(numbers)}\n")

    words = [nix, "--eval", "--strict", "--json", "--store", "dummy://", os.fspath(plain)]
    contenders = [
        Contender(_NIX, [*words, "-A", "value"]),
        Contender("eka eval", ["eka", "eval", f"{atom}#value"], before=change),
    ]
    return report("cold: the atom has changed", race(contenders, rounds=COLD_ROUNDS), [_NIX])
