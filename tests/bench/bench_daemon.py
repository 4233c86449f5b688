"""An evaluation of some hundred derivations through the socket, against Nix's own store and daemon.

Nix evaluates alike in all of them; what differs is who takes in the derivations. Cold means that
none is valid, warm that all are.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.bench.measure import Contender, race, report
from tests.daemons import daemon
from tests.requirements import require

ROUNDS = 9
DERIVATIONS = 500

_EXPRESSION = """
{ salt }: builtins.genList (i: derivation {
  name = "d${toString i}"; system = "x86_64-linux"; builder = "/bin/sh"; inherit salt;
  script = builtins.toFile "script-${toString i}" "echo ${salt} ${toString i} > $out";
}) %d
"""
OWN, THEIRS, THROUGH = "Nix's own store", "Nix's own daemon", "eka daemon"
_Command = tuple[Sequence[str], Mapping[str, str]]


def run() -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        expression = place / "many.nix"
        expression.write_text(_EXPRESSION % DERIVATIONS)
        with daemon(place / "store", place) as ours, _nix_daemon(place / "nix") as theirs:
            stores = {
                OWN: f"local?root={place}/own",
                THEIRS: theirs,
                THROUGH: ours.url,
            }
            return [_measure(place, expression, stores, kind) for kind in ("cold", "warm")]


def _measure(
    place: Path, expression: Path, stores: Mapping[str, str], kind: str
) -> dict[str, object]:
    salts = {name: count() for name in stores}

    def command(name: str) -> _Command:
        salt = f"{next(salts[name])}" if kind == "cold" else "same"
        words = [require("nix-instantiate"), os.fspath(expression), "--argstr", "salt", salt]
        return words, _environment(place, stores[name])

    def contender(name: str) -> Contender:
        return Contender(name, (), fresh=lambda: command(name))

    timings = race([contender(name) for name in stores], rounds=ROUNDS, warmup=2)
    title = f"nix-instantiate of {DERIVATIONS} derivations and as many files, {kind}"
    return report(title, timings, [OWN, THEIRS])


def _environment(place: Path, store: str) -> dict[str, str]:
    return {
        "HOME": os.fspath(place),
        "NIX_CONFIG": "substituters =\nbuild-users-group =\n",
        "NIX_CONF_DIR": os.fspath(place),
        "NIX_REMOTE": store,
        "NIX_STATE_DIR": os.fspath(place / "state"),
        "PATH": os.environ["PATH"],
    }


@contextmanager
def _nix_daemon(place: Path) -> Iterator[str]:
    socket = place / "socket"
    state = place / "state"
    state.mkdir(parents=True)
    own = {"NIX_STORE_DIR": "/nix/store", "NIX_DAEMON_SOCKET_PATH": os.fspath(socket)}
    environ = _environment(place, f"local?root={place}/root") | own
    words = [require("nix"), "daemon", "--extra-experimental-features", "nix-command"]
    with subprocess.Popen(words, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            while not socket.exists() and process.poll() is None:
                time.sleep(0.01)
            yield f"unix://{socket}?root={place}/root"
        finally:
            process.terminate()
