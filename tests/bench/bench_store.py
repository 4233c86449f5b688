"""`eka store add` and `import` against Nix's own store, on the same trees in the same run.

Every round starts with an empty store on both sides. eka makes its data durable (syncfs) before it
says a path is valid; Nix 2.8 leaves files to the kernel's write-back. So there are two peers: Nix
as it is, and Nix followed by `sync -f`, which promises the same as eka.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench.measure import Contender, race, report
from tests.requirements import require

EKA = Path(sys.executable).parent / "eka"
GIB = 1 << 30


def run() -> list[object]:
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        place = Path(name)
        results = [
            _add(place, "one file of 2 GB", big_file(place / "big", 2 * GIB)),
            _add(place, "100 000 files of 1 KB", small_files(place / "small", 100_000)),
            _import(place),
        ]
        _forget(place)
    return results


def big_file(file: Path, size: int) -> Path:
    """Incompressible, and no two blocks alike."""
    block = bytearray(os.urandom(1 << 24))
    with open(file, "wb") as stream:
        for number in range(size // len(block)):
            block[:8] = number.to_bytes(8, "little")
            stream.write(block)
    return file


def small_files(tree: Path, count: int) -> Path:
    for number in range(count):
        directory = tree / f"{number // 1000:03}"
        if number % 1000 == 0:
            directory.mkdir(parents=True)
        content = f"file {number}\n".encode() * (1 + number % 120)
        (directory / f"file-{number}").write_bytes(content)
    return tree


def _add(place: Path, title: str, source: Path) -> dict[str, object]:
    stores = {"eka": place / "eka-store", "nix": place / "nix-store"}
    contenders = [
        _contender("eka store add", [EKA, "store", "add", source], stores["eka"]),
        _contender("nix-store --add", _nix(stores["nix"], "--add", source), stores["nix"]),
        _contender("nix … && sync", _synced(stores["nix"], "--add", source), stores["nix"]),
    ]
    peers = ["nix-store --add", "nix … && sync"]
    return report(f"add: {title}", race(contenders, rounds=3, warmup=0), peers)


def _import(place: Path) -> dict[str, object]:
    stores = {"eka": place / "eka-store", "nix": place / "nix-store"}
    stream = place / "stream"
    _export(place, stream)
    contenders = [
        _contender("eka store import", [EKA, "store", "import"], stores["eka"], stream),
        _contender("nix-store --import", _nix(stores["nix"], "--import"), stores["nix"], stream),
        _contender("nix … && sync", _synced(stores["nix"], "--import"), stores["nix"], stream),
    ]
    peers = ["nix-store --import", "nix … && sync"]
    return report("import: both trees", race(contenders, rounds=3, warmup=0), peers)


def _export(place: Path, stream: Path) -> None:
    """A stream of both trees, in the way the stores of the last round were left."""
    import subprocess

    paths = []
    for source in (place / "big", place / "small"):
        added = _nix(place / "nix-store", "--add", source)
        paths.append(subprocess.run(added, capture_output=True, check=True).stdout.decode().strip())
    with open(stream, "wb") as out:
        subprocess.run(_nix(place / "nix-store", "--export", *paths), stdout=out, check=True)


def _nix(store: Path, *words: str | Path) -> list[str | Path]:
    return [require("nix-store"), "--store", store, *words]


def _synced(store: Path, *words: str | Path) -> list[str | Path]:
    return ["sh", "-c", f'"$@" && sync -f {store}', "sh", *_nix(store, *words)]


def _contender(
    name: str, argv: list[str | Path], store: Path, stdin: Path | None = None
) -> Contender:
    env = os.environ | {"EKA_STORE": os.fspath(store), "NIX_CONFIG": "build-users-group ="}
    words = [os.fspath(word) for word in argv]
    source = None if stdin is None else os.fspath(stdin)
    return Contender(name, words, env, lambda: _forget(store), source)


def _forget(store: Path) -> None:
    """Removes a store, and waits for the disk, so that no round pays for the one before."""
    if store.exists():
        for directory, _, _ in os.walk(store):
            os.chmod(directory, 0o700)
        shutil.rmtree(store)
    os.sync()
