"""Starts of eka-run against the runtime alone, and against podman and bubblewrap.

All run a shell that exits at once, as the calling user. "first" is a script that was never started
before, on a host that is known; the peers have no such difference. "crun run" gets the very bundle
that eka compiled, by hand; podman its rootfs; bwrap equivalent namespaces and mounts. Peers that
this host lacks, or that do not work on it, are left out. Then the same with a closure of 5 paths
and one of 500, by every view. crun by hand does not start beside hybrid control groups, so these
are covered for all contenders where the benchmark may.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path

from eka.bench.measure import Contender, Result, compare, own, peer, race, usable
from eka.bench.store import write_chain
from eka_runtime.linux.mounts import leave_shared_mounts, mount_tmpfs
from eka_runtime.linux.syscalls import CLONE_NEWNS, unshare
from eka_runtime.runtime.host import hybrid_cgroups

ROUNDS = 40


def run(rounds: int = ROUNDS) -> Iterator[Result]:
    """Works in a temporary directory, which becomes the process's own, with a store there."""
    _cover_hybrid_cgroups()
    with tempfile.TemporaryDirectory(prefix="eka-bench-") as name:
        place = Path(name)
        os.environ |= {"EKA_STORE": f"{name}/store", "XDG_CACHE_HOME": f"{name}/cache"}
        os.chdir(place)
        package = place / "package"
        (package / "bin").mkdir(parents=True)
        path = _eka("store", "add", os.fspath(package))
        script = place / "script"
        script.write_text(f"#!/usr/bin/env eka-run\n#!eka-run -p {path}\nexit 0\n")
        script.chmod(0o755)
        bundle = place / "bundle"
        _eka("bundle", "create", "-o", os.fspath(bundle), os.fspath(script))
        warm = Contender("eka-run (warm)", [own("eka-run"), os.fspath(script)])
        first = Contender("eka-run (first)", (), fresh=_new_scripts(place, path))
        peers = [*_runtimes(place, bundle), *_bwrap(bundle), *_podman(bundle)]
        others, refusals = usable(peers)
        timings = race([warm, first, *others], rounds=rounds, warmup=3)
        result = compare("start: a script that exits", timings, [one.name for one in others])
        yield result._replace(left_out=tuple(refusals))
        yield _closures(place, path, rounds)
        os.chdir("/")


def _new_scripts(place: Path, package: str) -> Callable[[], tuple[list[str], Mapping[str, str]]]:
    numbers = count()

    def fresh() -> tuple[list[str], Mapping[str, str]]:
        script = place / f"new-{next(numbers)}"
        script.write_text(f"#!/usr/bin/env eka-run\n#!eka-run -p {package}\nexit 0\n")
        script.chmod(0o755)
        return [own("eka-run"), os.fspath(script)], os.environ

    return fresh


def _cover_hybrid_cgroups() -> None:
    if os.geteuid() == 0 and (trees := hybrid_cgroups()):
        unshare(CLONE_NEWNS)
        leave_shared_mounts()
        for tree in trees:
            mount_tmpfs(Path(tree))


def _closures(place: Path, package: str, rounds: int) -> Result:
    """What the size of a closure adds to a warm start."""
    starts = []
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
            words = [own("eka-run"), "--view", view, os.fspath(script)]
            starts.append(Contender(f"{view}, {size} paths", words))
    there, refusals = usable(starts)
    timings = race(there, rounds=rounds, warmup=3)
    result = compare("start: closures of 5 and of 500 paths", timings, ["auto, 5 paths"])
    return result._replace(left_out=tuple(refusals))


def _eka(*words: str) -> str:
    done = subprocess.run([own("eka"), *words], capture_output=True, check=True, text=True)
    return done.stdout.strip()


def _runtimes(place: Path, bundle: Path) -> list[Contender]:
    """The compiled bundle by hand; each run needs a fresh id."""
    found = []
    for runtime in ("crun", "runc"):
        program = peer(runtime)
        if program is None:
            continue
        line = f'exec {program} --root {place}/{runtime} run -b {bundle} "bench-$$"'
        found.append(Contender(f"{runtime} run", ["/bin/sh", "-c", line]))
    return found


def _bwrap(bundle: Path) -> list[Contender]:
    program = peer("bwrap")
    if program is None:
        return []
    words = [program, "--unshare-all", "--die-with-parent", "--proc", "/proc"]
    words += ["--ro-bind", os.fspath(bundle / "rootfs"), "/", "--dev", "/dev", "--tmpfs", "/tmp"]
    for source, destination in _store_mounts(bundle):
        words += ["--ro-bind", source, destination]
    return [Contender("bwrap", [*words, "/bin/sh", "-c", "exit 0"])]


def _podman(bundle: Path) -> list[Contender]:
    program = peer("podman")
    if program is None:
        return []
    # Its own limits are more than root may have in some virtual machines.
    limits = ("--ulimit=nofile=1024:4096", "--ulimit=nproc=4096:4096")
    words = [program, "run", "--rm", "--network=none", "--read-only", *limits]
    for source, destination in _store_mounts(bundle):
        words.append(f"--volume={source}:{destination}:ro")
    words += ["--rootfs", os.fspath(bundle / "rootfs"), "/bin/sh", "-c", "exit 0"]
    return [Contender("podman run --rootfs", words)]


def _store_mounts(bundle: Path) -> list[tuple[str, str]]:
    mounts = json.loads((bundle / "config.json").read_text())["mounts"]
    places = ((mount["source"], mount["destination"]) for mount in mounts)
    return [place for place in places if place[1].startswith("/nix/store/")]
