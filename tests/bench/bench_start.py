"""A warm start of eka-run against the runtime alone, and against podman and bubblewrap.

All run the same program (`true` of a busybox in the store) as the calling user. "crun run" gets the
very bundle that eka compiled, by hand; podman its rootfs; bwrap equivalent namespaces and mounts.
Then the same with a closure of 5 paths and one of 500, by every view. crun by hand does not start
beside hybrid control groups, so these are covered for all contenders where the benchmark may.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from eka_runtime.linux.mounts import leave_shared_mounts, mount_tmpfs
from eka_runtime.linux.syscalls import CLONE_NEWNS, unshare
from eka_runtime.runtime.probe import hybrid_cgroups
from tests.bench.bench_store import write_chain
from tests.bench.measure import Contender, race, report
from tests.requirements import require
from tests.seed import busybox_tree

BIN = Path(sys.executable).parent
ROUNDS = 40


def run() -> list[object]:
    if os.geteuid() == 0 and (trees := hybrid_cgroups()):
        unshare(CLONE_NEWNS)
        leave_shared_mounts()
        for tree in trees:
            mount_tmpfs(Path(tree))
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        place = Path(name)
        store = place / "store"
        os.environ |= {"EKA_STORE": os.fspath(store), "XDG_CACHE_HOME": os.fspath(place / "cache")}
        os.chdir(place)
        package = _eka("store", "add", os.fspath(busybox_tree(place)))
        script = place / "script"
        script.write_text(f"#!/usr/bin/env eka-run\n#!eka-run -p {package}\nexit 0\n")
        script.chmod(0o755)
        bundle = place / "bundle"
        _eka("bundle", "create", "-o", os.fspath(bundle), os.fspath(script))
        contenders = [
            Contender("eka-run (warm)", [os.fspath(BIN / "eka-run"), os.fspath(script)]),
            *_runtimes(place, bundle),
            _bwrap(bundle),
            _podman(bundle),
        ]
        timings = race(contenders, rounds=ROUNDS, warmup=3)
        peers = ["crun run", "runc run", "podman run --rootfs", "bwrap"]
        return [report("start: a script that exits", timings, peers), _closures(place, package)]


def _closures(place: Path, package: str) -> object:
    """What the size of a closure adds to a warm start."""
    starts = {}
    for size in (5, 500):
        stream = place / "chain"
        with open(stream, "wb") as out:
            top = write_chain(out.write, size - 1)
        _eka("store", "import", os.fspath(stream))
        script = place / f"closure-{size}"
        header = f"# /// eka\n# packages = {json.dumps([package, top])}\n# ///\n"
        script.write_text(f"#!/usr/bin/env eka-run\n{header}exit 0\n")
        script.chmod(0o755)
        for view in ("auto", "bind", "overlay", "fuse"):
            words = [os.fspath(BIN / "eka-run"), "--view", view, os.fspath(script)]
            starts[view, size] = Contender(f"{view}, {size} paths", words)
    timings = race(list(starts.values()), rounds=ROUNDS, warmup=3)
    return report("start: closures of 5 and of 500 paths", timings, ["auto, 5 paths"])


def _eka(*words: str) -> str:
    done = subprocess.run([BIN / "eka", *words], capture_output=True, check=True, text=True)
    return done.stdout.strip()


def _runtimes(place: Path, bundle: Path) -> list[Contender]:
    """The compiled bundle by hand; each run needs a fresh id."""
    found = []
    for runtime in ("crun", "runc"):
        line = f'exec {require(runtime)} --root {place}/{runtime} run -b {bundle} "bench-$$"'
        found.append(Contender(f"{runtime} run", ["/bin/sh", "-c", line]))
    return found


def _bwrap(bundle: Path) -> Contender:
    words = [require("bwrap"), "--unshare-all", "--die-with-parent", "--proc", "/proc"]
    words += ["--ro-bind", os.fspath(bundle / "rootfs"), "/", "--dev", "/dev", "--tmpfs", "/tmp"]
    for source, destination in _store_mounts(bundle):
        words += ["--ro-bind", source, destination]
    return Contender("bwrap", [*words, "/bin/sh", "-c", "exit 0"])


def _podman(bundle: Path) -> Contender:
    # Its own limits are more than root may have in some virtual machines.
    limits = ("--ulimit=nofile=1024:4096", "--ulimit=nproc=4096:4096")
    words = [require("podman"), "run", "--rm", "--network=none", "--read-only", *limits]
    for source, destination in _store_mounts(bundle):
        words.append(f"--volume={source}:{destination}:ro")
    words += ["--rootfs", os.fspath(bundle / "rootfs"), "/bin/sh", "-c", "exit 0"]
    return Contender("podman run --rootfs", words)


def _store_mounts(bundle: Path) -> list[tuple[str, str]]:
    mounts = json.loads((bundle / "config.json").read_text())["mounts"]
    places = ((mount["source"], mount["destination"]) for mount in mounts)
    return [place for place in places if place[1].startswith("/nix/store/")]
