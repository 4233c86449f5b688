"""The next version of a package from `eka store serve` with a key, with and without the one before.

3 000 files of /usr/lib, ten of which are others in the next version, at 100 Mbit/s and 20 ms away.
Every round has a store of its own, and remembers nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

from eka.bench.measure import own
from tests.bench.bench_caches import files_below
from tests.bench.measure import Contender, race, report
from tests.caches import new_key

FILES, NEW = 3000, 10
_ROUNDS = 5
_WHOLE = "without"


def run() -> list[object]:
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        root = Path(name)
        old, new = _versions(root)
        secret, public = new_key(root)
        with _serving(root, secret) as url:
            numbers = count()

            def fetching(before: list[str]) -> Callable[[], tuple[list[str], Mapping[str, str]]]:
                def fresh() -> tuple[list[str], Mapping[str, str]]:
                    place = root / f"near-{next(numbers)}"
                    environ = os.environ | {
                        "EKA_STORE": f"{place}/store",
                        "XDG_CACHE_HOME": f"{place}/cache",
                        "EKA_TRUSTED_PUBLIC_KEYS": public,
                    }
                    words = [own("eka"), "-q", "store", "copy", "--from", url]
                    for path in before:
                        subprocess.run([*words, path], check=True, env=environ, capture_output=True)
                    return [*words, new], environ

                return fresh

            contenders = [
                Contender("with the version before", (), fresh=fetching([old])),
                Contender(_WHOLE, (), fresh=fetching([])),
            ]
            timings = race(contenders, rounds=_ROUNDS, warmup=0)
        return [report(f"{FILES} files, {NEW} of them new", timings, [_WHOLE])]


def _versions(root: Path) -> tuple[str, str]:
    paths = []
    for version in ("1.0", "1.1"):
        tree = root / version
        for number, file in enumerate(islice(_files(), FILES)):
            place = tree / f"{number // 100}" / str(number)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        paths.append((tree, f"package-{version}"))
    for number in range(0, FILES, FILES // NEW):
        place = root / "1.1" / f"{number // 100}" / str(number)
        place.write_bytes(random.Random(number).randbytes(10_000))
    return _added(root, *paths[0]), _added(root, *paths[1])


def _files() -> Iterator[Path]:
    """Not so small that there is nothing to be saved."""
    return (file for file in files_below(Path("/usr/lib")) if file.stat().st_size > 2000)


def _added(root: Path, tree: Path, name: str) -> str:
    words = [own("eka"), "store", "--store", f"{root}/origin", "add", "--name", name, tree]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def _serving(root: Path, secret: Path) -> Iterator[str]:
    words = [own("eka"), "store", "serve", "--listen", "127.0.0.1:0", "--key-file", secret]
    environ = os.environ | {"EKA_STORE": f"{root}/origin"}
    with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip().rpartition(":")[2]
            with _far_away(port) as url:
                yield url
        finally:
            process.kill()


@contextmanager
def _far_away(port: str) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.bench.slow_link", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()
