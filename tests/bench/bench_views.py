"""The views against the files that were added: stats, listings, 1 GB, and eight readers at once.

"native" is what was added, but for 1 GB the very blob that the views show: how the kernel keeps a
file's pages depends on how it was written.

Every round is a program that sees the view as a script would, and times itself. The overlay and the
fuse view are mounted afresh for it, so "cold" means that the kernel knows nothing of them, and for
the fuse view that each byte is verified. The contents themselves lie in the page cache.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from eka.bench.store import big_file, mixed_files
from eka_runtime.castore.removal import remove_tree
from eka_runtime.store.store import Store
from tests.bench.measure import Timing, report
from tests.views import Shown, show_bind, show_fuse, show_overlay

ROUNDS = 7
FILES = 10_000
GIB = 1 << 30

READER = """
import json, os, sys, time
place, big, small, files = sys.argv[1:5]
names = [f"{place}/{small}/{n // 1000:03}/{n % 20:02}/file-{n}" for n in range(int(files))]
def stats():
    for name in names:
        os.lstat(name)
def walk():
    count = 0
    for directory, _, found in os.walk(f"{place}/{small}"):
        for name in found:
            os.lstat(f"{directory}/{name}")
buffer = [bytearray(1 << 20)]
def read(name):
    fd = os.open(name, os.O_RDONLY)
    while os.readv(fd, buffer):
        pass
    os.close(fd)
def gigabyte():
    read(f"{place}/{big}")
def one_reader():
    for name in names:
        read(name)
def readers():
    pids = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            for name in names[number::8]:
                read(name)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
action = globals()[sys.argv[5]]
def timed():
    start, used = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - start, time.process_time() - used
cold, again = timed(), [timed() for _ in range(3)]
print(json.dumps([cold[0], min(one[0] for one in again), min(one[1] for one in again)]))
"""
STATES = ("cold", "warm", "warm, CPU")
TITLES = {
    "stats": "10 000 stats of names that are known",
    "walk": "a walk over 10 000 files with a stat of each",
    "gigabyte": "one file of 1 GB",
    "one_reader": "10 000 small files, one reader",
    "readers": "10 000 small files, eight readers",
}


def run() -> list[object]:
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        place = Path(name)
        with Store.open(place / "store") as store:
            paths = [
                store.add_tree(big_file(place / "big", GIB)),
                store.add_tree(mixed_files(place / "small", FILES)),
            ]
            names = tuple(info.path.base for info in paths)
            views = {
                "native": (Shown(place), ("big", "small")),
                "bind": (show_bind(store, paths, place), names),
                "overlay": (show_overlay(store, paths, place / "overlay"), names),
                "fuse": (show_fuse(store, paths, place), names),
            }
            results = [_compare(action, views) for action in TITLES if action != "gigabyte"]
            blob = _largest(store.layout.blobs)
            views["native"] = (Shown(blob.parent), (blob.name, "none"))
            results.append(_compare("gigabyte", views))
        remove_tree(place / "store")
    return results


def _largest(directory: Path) -> Path:
    files = (file for file in directory.rglob("*") if file.is_file())
    return max(files, key=lambda file: file.stat().st_size)


def _compare(action: str, views: Mapping[str, tuple[Shown, tuple[str, ...]]]) -> object:
    # Processes that an action starts are not counted; reading one file starts none.
    states = STATES if action == "gigabyte" else STATES[:2]
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, (view, names) in views.items():
            words = (view.place, *names, str(FILES), action)
            done = view.run(sys.executable, "-c", READER, *words)
            if done.returncode != 0:
                raise RuntimeError(f"{name} failed: {done.stderr.decode(errors='replace')}")
            for state, took in zip(states, json.loads(done.stdout), strict=False):
                times.setdefault(f"{name}, {state}", []).append(took)
    timings = [Timing(name, statistics.median(took), min(took)) for name, took in times.items()]
    return report(f"views: {TITLES[action]}", timings, [f"native, {state}" for state in states])
