"""eka's store against Nix's own, on the same trees in the same run.

Every round of `add` and `import` starts with an empty store on both sides, in a directory that was
never used: ext4 looks for a while at each inode that was deleted lately. eka makes its data durable
(syncfs) before it says a path is valid; Nix 2.8 leaves files to the kernel's write-back. So there
are two peers: Nix as it is, and Nix followed by `sync -f`, which promises the same as eka.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

from eka_runtime.nix import base32
from eka_runtime.nix.export import ExportItem, write_export
from eka_runtime.nix.nar import NarWriter
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.tokens import Write
from tests.bench.measure import Contender, race, report
from tests.requirements import require

EKA = Path(sys.executable).parent / "eka"
GIB = 1 << 30
Command = Callable[[Path], list[str | Path]]

_ROUNDS = 3


def run() -> list[object]:
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        place = Place(Path(name))
        big = big_file(place.root / "big", 2 * GIB)
        mixed = mixed_files(place.root / "mixed", 40_000)
        results: list[object] = [
            _add(place, "one file of 2 GB", big),
            _add(place, "40 000 files, 0.5 GB", mixed),
        ]
        stores = Both.with_tree(place, mixed)
        results += [_export(stores), _verify(stores), _import(place, stores)]
        shutil.rmtree(place.root / "mixed")
        results += [_query(place), _versions(place)]
        os.sync()
    return results


class Place:
    """Where everything is made; `fresh` gives a directory that is new to the file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._numbers = count()

    def fresh(self) -> Path:
        return self.root / f"store-{next(self._numbers)}"


class Both:
    """The same paths in a store of each kind."""

    def __init__(self, place: Place) -> None:
        self.eka, self.nix = place.fresh(), place.fresh()
        self.paths: list[str] = []

    @classmethod
    def with_tree(cls, place: Place, tree: Path) -> Both:
        both = cls(place)
        both.paths = [_output(_nix(both.nix, "--add", tree), both.nix)]
        assert [_output([EKA, "store", "add", tree], both.eka)] == both.paths
        return both


def big_file(file: Path, size: int) -> Path:
    """Incompressible, and no two blocks alike."""
    block = bytearray(os.urandom(1 << 24))
    with open(file, "wb") as stream:
        for number in range(size // len(block)):
            block[:8] = number.to_bytes(8, "little")
            stream.write(block)
    return file


def mixed_files(tree: Path, files: int) -> Path:
    """Sizes as trees of programs have them: median 3.6 KB, mean 13 KB, a few of megabytes."""
    sizes = random.Random(7)
    for number in range(files):
        directory = tree / f"{number // 1000:03}" / f"{number % 20:02}"
        directory.mkdir(parents=True, exist_ok=True)
        size = min(int(sizes.lognormvariate(8.2, 1.6)), 4 << 20)
        (directory / f"file-{number}").write_bytes(os.urandom(size))
    return tree


def _add(place: Place, title: str, source: Path) -> dict[str, object]:
    contenders = [
        _contender(place, "eka store add", lambda store: [EKA, "store", "add", source]),
        _contender(place, "nix-store --add", lambda store: _nix(store, "--add", source)),
        _contender(place, "nix … && sync", lambda store: _synced(store, "--add", source)),
    ]
    peers = ["nix-store --add", "nix … && sync"]
    return report(f"add: {title}", race(contenders, rounds=_ROUNDS, warmup=0), peers)


def _import(place: Place, stores: Both) -> dict[str, object]:
    stream = place.root / "stream"
    with open(stream, "wb") as out:
        subprocess.run(_nix(stores.nix, "--export", *stores.paths), stdout=out, check=True)
    contenders = [
        _contender(place, "eka store import", lambda store: [EKA, "store", "import"], stream),
        _contender(place, "nix-store --import", lambda store: _nix(store, "--import"), stream),
        _contender(place, "nix … && sync", lambda store: _synced(store, "--import"), stream),
    ]
    peers = ["nix-store --import", "nix … && sync"]
    timings = race(contenders, rounds=_ROUNDS, warmup=0)
    stream.unlink()
    return report("import: 40 000 files, 0.5 GB", timings, peers)


def _export(stores: Both) -> dict[str, object]:
    contenders = [
        _on("eka store export", [EKA, "store", "export", *stores.paths], stores.eka),
        _on("nix-store --export", _nix(stores.nix, "--export", *stores.paths), stores.nix),
    ]
    timings = race(contenders, rounds=5)
    return report("export: 40 000 files, 0.5 GB", timings, ["nix-store --export"])


def _verify(stores: Both) -> dict[str, object]:
    nix = _nix(stores.nix, "--verify", "--check-contents")
    contenders = [
        _on("eka store verify --deep", [EKA, "store", "verify", "--deep"], stores.eka),
        _on("nix-store --verify --check-contents", nix, stores.nix),
    ]
    peers = ["nix-store --verify --check-contents"]
    return report("verify: 40 000 files, 0.5 GB", race(contenders, rounds=5), peers)


def _query(place: Place) -> dict[str, object]:
    """The closure of a path in a chain of 500, each of which also refers to ten before it."""
    both = Both(place)
    stream = place.root / "chain"
    with open(stream, "wb") as out:
        top = write_chain(out.write, 500)
    imports: dict[Path, list[str | Path]] = {
        both.eka: [EKA, "store", "import"],
        both.nix: _nix(both.nix, "--import"),
    }
    for store, command in imports.items():
        with open(stream, "rb") as source:
            env = _environment(store)
            subprocess.run(command, stdin=source, env=env, stdout=subprocess.DEVNULL, check=True)
    contenders = [
        _on("eka store closure", [EKA, "store", "closure", top], both.eka),
        _on("nix-store -qR", _nix(both.nix, "-qR", top), both.nix),
    ]
    return report("query: closure of 500 paths", race(contenders, rounds=15), ["nix-store -qR"])


def write_chain(write: Write, paths: int) -> str:
    """An export stream of small paths; returns the last one."""
    made: list[StorePath] = []

    def items() -> Iterator[tuple[ExportItem, Callable[[Write], None]]]:
        for number in range(paths):
            digits = base32.encode(number.to_bytes(20, "little"))
            path = StorePath.from_base(f"{digits}-p{number}")
            references = tuple(sorted(made[-10:]))
            made.append(path)
            yield ExportItem(path, references, None), partial(_one_file, b"%d" % number)

    write_export(items(), write)
    return str(made[-1])


def _one_file(data: bytes, write: Write) -> None:
    NarWriter(write).file_data(b"", False, data)


def _versions(place: Place) -> dict[str, object]:
    """Disk space of three versions of a tree that have most files in common."""
    both, tree = Both(place), place.root / "tree"
    mixed_files(tree, 6000)
    changes = random.Random(11)
    for _ in range(3):
        for file in sorted(tree.rglob("file-*")):
            if changes.random() < 0.15:
                file.write_bytes(os.urandom(file.stat().st_size))
        _output([EKA, "store", "add", tree], both.eka)
        _output(_nix(both.nix, "--add", tree), both.nix)
    subprocess.run(_nix(both.nix, "--optimise"), env=_environment(both.nix), check=True)
    sizes = {"eka": _disk(both.eka), "nix, optimised": _disk(both.nix / "nix" / "store")}
    title = "disk: three versions of 6000 files, 15 % changed each time"
    print(f"\n{title}")
    for name, size in sizes.items():
        print(f"{name:34}{size >> 20:>6} MiB{size / sizes['nix, optimised']:>22.2f}")
    return {"title": title, "bytes": sizes}


def _disk(directory: Path) -> int:
    seen, total = set(), 0
    for file in [directory, *directory.rglob("*")]:
        status = file.lstat()
        if status.st_ino not in seen:
            seen.add(status.st_ino)
            total += status.st_blocks * 512
    return total


def _nix(store: Path, *words: str | Path) -> list[str | Path]:
    return [require("nix-store"), "--store", store, *words]


def _synced(store: Path, *words: str | Path) -> list[str | Path]:
    return ["sh", "-c", f'"$@" && sync -f {store}', "sh", *_nix(store, *words)]


def _environment(store: Path) -> dict[str, str]:
    return os.environ | {"EKA_STORE": os.fspath(store), "NIX_CONFIG": "build-users-group ="}


def _output(command: list[str | Path], store: Path) -> str:
    done = subprocess.run(command, env=_environment(store), stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().strip()


def _on(name: str, command: list[str | Path], store: Path) -> Contender:
    return Contender(name, [os.fspath(word) for word in command], _environment(store))


def _contender(place: Place, name: str, command: Command, stdin: Path | None = None) -> Contender:
    """With a store of its own in every round."""

    def fresh() -> tuple[list[str], dict[str, str]]:
        os.sync()
        store = place.fresh()
        return [os.fspath(word) for word in command(store)], _environment(store)

    return Contender(name, (), stdin=None if stdin is None else os.fspath(stdin), fresh=fresh)
