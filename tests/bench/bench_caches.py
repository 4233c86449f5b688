"""Closures from a binary cache that is 20 ms away: eka against `nix copy`, in the same run.

200 paths of files that this machine has, xz and zstd, signed; and 800 look-ups of narinfos. Every
round starts with an empty store and nothing remembered on both sides. EKA_BENCH_MIB says how much
there is to fetch (128; of the figures that are quoted, 1024). Then `eka store serve` against a
plain server of the same narinfos as files, near by.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

from eka.bench.measure import own, peer
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.signing import SecretKey
from eka_runtime.store.store import Store
from tests.bench.measure import Contender, race, report
from tests.stores import insert, link_info

PATHS = 200
LOOK_UPS = 800
QUESTIONS = 16_000
DELAY_MS = 20
_FEATURES = ("--extra-experimental-features", "nix-command")
_ROUNDS = 3


def run() -> list[object]:
    size = int(os.environ.get("EKA_BENCH_MIB", "128")) << 20
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        root = Path(name)
        key = SecretKey.generate("bench-1")
        (root / "secret").write_text(key.text())
        paths = _fill(root, size)
        found: list[object] = []
        for compression in ("zstd", "xz"):
            cache = root / compression
            url = f"file://{cache}?compression={compression}&secret-key={root}/secret"
            level = "&compression-level=1" if compression == "xz" else ""
            _eka(root, "store", "copy", "--store", root / "origin", "--to", url + level, *paths)
            found.append(_fetching(root, cache, compression, paths, str(key.public), size))
            shutil.rmtree(cache)
        found.append(_looking_up(root, key))
        found.append(_serving(root))
        return found


def _fill(root: Path, size: int) -> list[str]:
    """Files of /usr in 200 paths, about as much in each."""
    files = files_below(Path("/usr"))
    paths = []
    with Store.open(root / "origin") as store:
        for number in range(PATHS):
            tree = root / "trees" / f"package-{number}"
            tree.mkdir(parents=True)
            left = size // PATHS
            while left > 0:
                file = next(files)
                shutil.copy(file, tree / f"{left}-{file.name}")
                left -= file.stat().st_size + 512
            paths.append(str(store.add_tree(tree).path))
    shutil.rmtree(root / "trees")
    return paths


def files_below(top: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted(files):
            place = Path(directory) / name
            if place.is_file() and not place.is_symlink() and place.stat().st_size < 1 << 25:
                yield place


@contextmanager
def _far(directory: Path, delay: int = DELAY_MS) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.bench.far_server", str(directory), str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def _fetching(
    root: Path, cache: Path, compression: str, paths: list[str], key: str, size: int
) -> dict[str, object]:
    numbers = count()

    def eka(url: str) -> Contender:
        def fresh() -> tuple[list[str], dict[str, str]]:
            place = root / f"eka-{compression}-{next(numbers)}"
            words = [own("eka"), "store", "copy", "--store", f"{place}/store", "--from", url]
            environ = {"XDG_CACHE_HOME": f"{place}/cache", "EKA_TRUSTED_PUBLIC_KEYS": key}
            return [*words, *paths], os.environ | environ

        return Contender("eka store copy", (), fresh=fresh)

    def nix(url: str, program: str) -> Contender:
        def fresh() -> tuple[list[str], dict[str, str]]:
            place = root / f"nix-{compression}-{next(numbers)}"
            place.mkdir()
            words = [program, *_FEATURES, "--store", f"{place}/store", "copy", "--from", url]
            config = f"trusted-public-keys = {key}\nbuild-users-group =\n"
            environ = {"XDG_CACHE_HOME": f"{place}/cache", "NIX_CONFIG": config, "HOME": str(place)}
            return [*words, *paths], os.environ | environ

        return Contender("nix copy", (), fresh=fresh)

    with _far(cache) as url:
        program = peer("nix")
        contenders = [eka(url), *([nix(url, program)] if program else [])]
        timings = race(contenders, rounds=_ROUNDS, warmup=0)
    packed = sum(file.stat().st_size for file in (cache / "nar").iterdir()) >> 20
    title = f"{PATHS} paths, {size >> 20} MiB as {packed} MiB of {compression}, {DELAY_MS} ms away"
    return report(title, timings, ["nix copy"])


def _looking_up(root: Path, key: SecretKey) -> dict[str, object]:
    """Paths that refer to nothing; eka's process does what a plan of the closure takes."""
    infos = [link_info(f"target-{number}") for number in range(LOOK_UPS)]
    with Store.open(root / "links") as store:
        insert(store, *infos)
    paths = [str(info.path) for info in infos]
    cache = root / "look-ups"
    url = f"file://{cache}?compression=none&secret-key={root}/secret"
    _eka(root, "store", "copy", "--store", root / "links", "--to", url, *paths)
    numbers = count()
    with _far(cache) as url:

        def eka() -> tuple[list[str], dict[str, str]]:
            words = [sys.executable, "-m", "tests.bench.bench_caches", str(root / "empty"), url]
            return [*words, str(key.public)], os.environ | {"PATHS": " ".join(paths)}

        def nix() -> tuple[list[str], dict[str, str]]:
            place = root / f"nix-look-ups-{next(numbers)}"
            words = [peer("nix") or "nix", *_FEATURES, "path-info", "--store", url, *paths]
            environ = {"XDG_CACHE_HOME": f"{place}/cache", "HOME": str(place)}
            return words, os.environ | environ

        contenders = [Contender("eka, process", (), fresh=eka)]
        if peer("nix"):
            contenders.append(Contender("nix path-info", (), fresh=nix))
        timings = race(contenders, rounds=_ROUNDS, warmup=0)
    return report(f"{LOOK_UPS} narinfos, {DELAY_MS} ms away", timings, ["nix path-info"])


def _serving(root: Path) -> dict[str, object]:
    """The store and the cache that `_looking_up` has made."""
    names = [file.name for file in (root / "look-ups").glob("*.narinfo")]

    def asking(name: str, url: str) -> Contender:
        words = [sys.executable, "-m", "tests.bench.asker", url, str(QUESTIONS), *names]
        return Contender(name, words)

    serve = [own("eka"), "store", "serve", "--store", f"{root}/links", "--listen", "127.0.0.1:0"]
    environ = os.environ | {"XDG_CACHE_HOME": f"{root}/cache"}
    with (
        _far(root / "look-ups", 0) as plain,
        subprocess.Popen(serve, env=environ, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            contenders = [asking("eka store serve", url), asking("plain files", plain)]
            timings = race(contenders, rounds=_ROUNDS)
        finally:
            process.kill()
    return report(f"{QUESTIONS} narinfos, near by", timings, ["plain files"])


def _eka(root: Path, *words: str | Path) -> None:
    environ = os.environ | {"XDG_CACHE_HOME": f"{root}/cache"}
    subprocess.run(
        [own("eka"), *words], check=True, env=environ, stdout=subprocess.DEVNULL, stderr=None
    )


def _plan(place: Path, url: str, public: str, paths: list[StorePath]) -> None:
    """What a command does before it fetches, as a process."""
    from eka_runtime.cache.access import Access
    from eka_runtime.cache.settings import CacheSettings
    from eka_runtime.cache.substituter import open_substituter

    settings = CacheSettings((url,), (public,))
    with (
        Store.open(place) as store,
        open_substituter(settings, Access({}), None, lambda text: None) as caches,
    ):
        plan = caches.plan(store, {path.hash: lambda info: True for path in paths})
        assert len(plan.found) == len(paths)


if __name__ == "__main__":
    _place, _url, _public = islice(sys.argv, 1, None)
    _plan(Path(_place), _url, _public, [StorePath.parse(p) for p in os.environ["PATHS"].split()])
