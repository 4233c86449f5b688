"""eka's store against Nix's own, on the same trees in the same run.

Every round of `add` and `import` starts with an empty store on both sides, in a directory that was
never used: ext4 looks for a while at each inode that was deleted lately. eka makes its data durable
(syncfs) before it says a path is valid; Nix 2.8 leaves files to the kernel's write-back. So there
are two peers: Nix as it is, and Nix followed by `sync -f`, which promises the same as eka. Without
Nix on the host there are eka's own times only.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

from eka.bench.measure import Contender, Result, Timing, compare, own, peer, race
from eka.output import table
from eka_runtime.nix import base32
from eka_runtime.nix.export import ExportItem, write_export
from eka_runtime.nix.nar import NarWriter
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.tokens import Write

GIB = 1 << 30
Command = Callable[[Path], list[str | Path]]

_ROUNDS = 3
_OPTIMISED = "nix, optimised"
NIX = peer("nix-store")


def run(full: bool = True) -> Iterator[Result]:
    """With an eighth of the data unless `full`, which takes minutes and 12 GB of disk."""
    scale = 1 if full else 8
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        place = Place(Path(name))
        big = big_file(place.root / "big", 2 * GIB // scale)
        mixed = mixed_files(place.root / "mixed", 40_000 // scale)
        yield _add(place, f"one file of {2048 // scale} MiB", big)
        what = f"{40_000 // scale} files, {512 // scale} MB"
        yield _add(place, what, mixed)
        stores = Both.with_tree(place, mixed)
        yield _export(stores, what)
        yield _verify(stores, what)
        yield _import(place, stores, what)
        shutil.rmtree(place.root / "mixed")
        yield _query(place)
        yield _versions(place)
        os.sync()


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
        both.paths = [_output(_eka("add", tree), both.eka)]
        if NIX:
            _output(_nix(both.nix, "--add", tree), both.nix)
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


def _add(place: Place, title: str, source: Path) -> Result:
    contenders = [
        _contender(place, "eka store add", lambda store: _eka("add", source)),
        _contender(place, "nix-store --add", lambda store: _nix(store, "--add", source)),
        _contender(place, "nix … && sync", lambda store: _synced(store, "--add", source)),
    ]
    peers = ["nix-store --add", "nix … && sync"]
    return compare(f"add: {title}", _race(contenders, rounds=_ROUNDS, warmup=0), peers)


def _import(place: Place, stores: Both, what: str) -> Result:
    stream = place.root / "stream"
    with open(stream, "wb") as out:
        command = _eka("export", *stores.paths)
        subprocess.run(command, env=_environment(stores.eka), stdout=out, check=True)
    contenders = [
        _contender(place, "eka store import", lambda store: _eka("import"), stream),
        _contender(place, "nix-store --import", lambda store: _nix(store, "--import"), stream),
        _contender(place, "nix … && sync", lambda store: _synced(store, "--import"), stream),
    ]
    peers = ["nix-store --import", "nix … && sync"]
    timings = _race(contenders, rounds=_ROUNDS, warmup=0)
    stream.unlink()
    return compare(f"import: {what}", timings, peers)


def _export(stores: Both, what: str) -> Result:
    contenders = [
        _on("eka store export", _eka("export", *stores.paths), stores.eka),
        _on("nix-store --export", _nix(stores.nix, "--export", *stores.paths), stores.nix),
    ]
    timings = _race(contenders, rounds=5)
    return compare(f"export: {what}", timings, ["nix-store --export"])


def _verify(stores: Both, what: str) -> Result:
    nix = _nix(stores.nix, "--verify", "--check-contents")
    contenders = [
        _on("eka store verify --deep", _eka("verify", "--deep"), stores.eka),
        _on("nix-store --verify --check-contents", nix, stores.nix),
    ]
    peers = ["nix-store --verify --check-contents"]
    return compare(f"verify: {what}", _race(contenders, rounds=5), peers)


def _query(place: Place) -> Result:
    """The closure of a path in a chain of 500, each of which also refers to ten before it."""
    both = Both(place)
    stream = place.root / "chain"
    with open(stream, "wb") as out:
        top = write_chain(out.write, 500)
    imports = {both.eka: _eka("import")}
    if NIX:
        imports[both.nix] = _nix(both.nix, "--import")
    for store, command in imports.items():
        with open(stream, "rb") as source:
            env = _environment(store)
            subprocess.run(command, stdin=source, env=env, stdout=subprocess.DEVNULL, check=True)
    contenders = [
        _on("eka store closure", _eka("closure", top), both.eka),
        _on("nix-store -qR", _nix(both.nix, "-qR", top), both.nix),
    ]
    return compare("query: closure of 500 paths", _race(contenders, rounds=15), ["nix-store -qR"])


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


def _versions(place: Place) -> Result:
    """Disk space of three versions of a tree that have most files in common."""
    both, tree = Both(place), place.root / "tree"
    mixed_files(tree, 6000)
    changes = random.Random(11)
    for _ in range(3):
        for file in sorted(tree.rglob("file-*")):
            if changes.random() < 0.15:
                file.write_bytes(os.urandom(file.stat().st_size))
        _output(_eka("add", tree), both.eka)
        if NIX:
            _output(_nix(both.nix, "--add", tree), both.nix)
    sizes = {"eka": _disk(both.eka)}
    if NIX:
        _output(_nix(both.nix, "--optimise"), both.nix)
        sizes[_OPTIMISED] = _disk(both.nix / "nix" / "store")
    return _compare_sizes("disk: three versions of 6000 files, 15 % changed each time", sizes)


def _compare_sizes(title: str, sizes: dict[str, int]) -> Result:
    ratios = {name: size / sizes.get(_OPTIMISED, size) for name, size in sizes.items()}
    cells = [(name, f"{size >> 20} MiB", f"{ratios[name]:.2f}") for name, size in sizes.items()]
    rows: dict[str, dict[str, object]] = {
        name: {"bytes": size, "ratios": {_OPTIMISED: round(ratios[name], 2)}}
        for name, size in sizes.items()
    }
    return Result(title, tuple(table(cells, ("", "size", f"÷ {_OPTIMISED}"))), rows)


def _disk(directory: Path) -> int:
    seen, total = set(), 0
    for file in [directory, *directory.rglob("*")]:
        status = file.lstat()
        if status.st_ino not in seen:
            seen.add(status.st_ino)
            total += status.st_blocks * 512
    return total


def _eka(*words: str | Path) -> list[str | Path]:
    return [own("eka"), "store", *words]


def _nix(store: Path, *words: str | Path) -> list[str | Path]:
    return [NIX or "nix-store", "--store", store, *words]


def _synced(store: Path, *words: str | Path) -> list[str | Path]:
    return ["sh", "-c", f'"$@" && sync -f {store}', "sh", *_nix(store, *words)]


def _environment(store: Path) -> dict[str, str]:
    return os.environ | {"EKA_STORE": os.fspath(store), "NIX_CONFIG": "build-users-group ="}


def _output(command: list[str | Path], store: Path) -> str:
    done = subprocess.run(command, env=_environment(store), stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().strip()


def _on(name: str, command: list[str | Path], store: Path) -> Contender:
    return Contender(name, [os.fspath(word) for word in command], _environment(store))


def _race(contenders: list[Contender], *, rounds: int, warmup: int = 1) -> list[Timing]:
    there = [one for one in contenders if NIX or not one.name.startswith("nix")]
    return race(there, rounds=rounds, warmup=warmup)


def _contender(place: Place, name: str, command: Command, stdin: Path | None = None) -> Contender:
    """With a store of its own in every round."""

    def fresh() -> tuple[list[str], dict[str, str]]:
        os.sync()
        store = place.fresh()
        return [os.fspath(word) for word in command(store)], _environment(store)

    return Contender(name, (), stdin=None if stdin is None else os.fspath(stdin), fresh=fresh)
