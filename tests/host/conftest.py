"""Starts real bundles through `enter`, as every kind of user, in every mode, with both runtimes.

A `Box` is one of these combinations; a combination that this host cannot do is skipped with what
the probe said. Programs come from a static busybox, the only thing in the rootfs. Launchers run
isolated from a copy of eka_runtime, because the checkout may be closed to other users.
"""

from __future__ import annotations

import json
import marshal
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import product, starmap
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import eka_runtime
from eka_runtime.runtime.trial import RUNNER
from tests.requirements import lacking, require
from tests.users import User, get_user, labels

TIMEOUT = 120
ENV = (b"PATH=/bin", b"HOME=/tmp")
_PROVEN: set[tuple[int, str, str]] = set()  # combinations that have started a bundle

PLANNER = """\
import json, marshal, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from eka_runtime.runtime.launch import plan
from eka_runtime.runtime.host import Host, hybrid_cgroups
from eka_runtime.runtime.probe import find_runtimes
from eka_runtime.runtime.trial import attempt
wanted = json.loads(sys.argv[2])
runtime, kind = find_runtimes({"EKA_RUNTIME": wanted["runtime"]})[0]
cover = hybrid_cgroups() if kind == "crun" else ()
host = Host(wanted["mode"], runtime, kind, os.geteuid(), os.getegid(), cover)
if wanted["attempt"] and (error := attempt(host)):
    sys.exit(error)
planned = plan(wanted["spec"], Path("/"), host, state=Path(wanted["state"]))
sys.stdout.buffer.write(marshal.dumps(planned))
"""


class Box(NamedTuple):
    """A user, a mode and a runtime that work together here, and a directory for all they do."""

    user: User
    mode: str
    runtime: str
    place: Path
    python: str
    source: Path

    @property
    def state(self) -> Path:
        return self.place / "state"

    def plan(self, **changes: Any) -> dict[str, Any]:
        """A plan for the busybox bundle; `mounts` are added to its own, other keys replaced."""
        spec = busybox_bundle(self.place / "rootfs", self.user)
        spec["mounts"] += changes.pop("mounts", [])
        combination = (self.user.uid, self.mode, self.runtime)
        wanted = {
            "runtime": self.runtime,
            "mode": self.mode,
            "spec": spec | changes,
            "state": os.fspath(self.state),
            "attempt": combination not in _PROVEN,
        }
        done = self.user.run([*self._isolated(PLANNER), json.dumps(wanted)], timeout=TIMEOUT)
        if done.returncode != 0:
            lacking(f"{self.mode} mode does not work here: {done.stderr.decode()}")
        _PROVEN.add(combination)
        planned: dict[str, Any] = marshal.loads(done.stdout)
        return planned

    def command(
        self,
        args: Sequence[bytes | str],
        env: Sequence[bytes] = ENV,
        plan: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """What starts the program `args`; can be started any number of times."""
        content: Any = (dict(plan or self.plan()), [os.fsencode(word) for word in args], [*env])
        with tempfile.NamedTemporaryFile(dir=self.place, delete=False) as file:
            file.write(marshal.dumps(content))
        os.chmod(file.name, 0o644)
        return [*self._isolated(RUNNER), file.name]

    def run(self, args: Sequence[bytes | str], **more: Any) -> subprocess.CompletedProcess[bytes]:
        """Options of `command`, or of subprocess.run."""
        own = {key: more.pop(key) for key in ("env", "plan") if key in more}
        if "input" in more:
            more["stdin"] = None
        return self.user.run(self.command(args, **own), **({"timeout": TIMEOUT} | more))

    def sh(self, script: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return self.run(["/bin/sh", "-c", script], **more)

    def start(self, script: str, **more: Any) -> subprocess.Popen[bytes]:
        """Returns at once; stdout is a pipe. Kill what may not end by itself."""
        words = self.command(["/bin/sh", "-c", script], plan=more.pop("plan", None))
        return self.user.popen(words, **({"stdout": subprocess.PIPE} | more))

    def _isolated(self, program: str) -> list[str]:
        return [self.python, "-ISE", "-c", program, os.fspath(self.source)]


def busybox_bundle(rootfs: Path, user: User) -> dict[str, Any]:
    """config.json as eka compiles it, as far as starting it is concerned."""
    kinds = ("bounding", "effective", "inheritable", "permitted", "ambient")
    namespaces = ("user", "pid", "mount", "ipc", "uts", "network", "cgroup")
    ids = {"containerID": user.uid, "hostID": user.uid, "size": 1}
    groups = {"containerID": user.gid, "hostID": user.gid, "size": 1}
    return {
        "ociVersion": "1.0.2",
        "root": {"path": os.fspath(rootfs), "readonly": True},
        "hostname": "eka",
        "process": {
            "user": {"uid": user.uid, "gid": user.gid},
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {kind: [] for kind in kinds},
        },
        "mounts": [
            _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
            _mount("/dev", "tmpfs", "nosuid", "mode=755"),
            _mount("/dev/pts", "devpts", "newinstance", "ptmxmode=0666", "mode=0620"),
            _mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777"),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "uidMappings": [ids],
            "gidMappings": [groups],
            "maskedPaths": ["/proc/kcore", "/proc/keys"],
            "readonlyPaths": ["/proc/sys"],
        },
    }


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    """A mount entry."""
    return _mount(destination, "bind", "rbind", *options) | {"source": os.fspath(source)}


@pytest.fixture(scope="session")
def source() -> Iterator[Path]:
    """A directory with eka_runtime in it that every user may read."""
    place = Path(tempfile.mkdtemp(prefix="eka-host-source-"))
    package = Path(eka_runtime.__file__).parent
    shutil.copytree(package, place / package.name)
    place.chmod(0o755)
    subprocess.run(["chmod", "-R", "a+rX", place], check=True)
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    """busybox with all applets, and the mount points that bundles have."""
    busybox = require("busybox")
    place = Path(tempfile.mkdtemp(prefix="eka-host-rootfs-"))
    for name in ("bin", "dev", "proc", "sys", "tmp", "data", "nix/store"):
        (place / name).mkdir(parents=True)
    shutil.copy(busybox, place / "bin" / "busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, check=True, text=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            (place / "bin" / applet).symlink_to("busybox")
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


class Combination(NamedTuple):
    label: str
    mode: str
    runtime: str


def every(who: Sequence[str], modes: Sequence[str]) -> list[Any]:
    combinations = starmap(Combination, product(who, modes, ("crun", "runc")))
    return [pytest.param(each, id="-".join(each)) for each in combinations]


@cache
def cannot_execute(user: User, python: str) -> str:
    """Why; "" if it can."""
    done = user.run([python, "-ISE", "-c", ""])
    return f"status {done.returncode}, {done.stderr.decode()}" if done.returncode else ""


@contextmanager
def make_box(wanted: Combination, rootfs: Path, source: Path) -> Iterator[Box]:
    label, mode, runtime = wanted
    require(runtime)
    user = get_user(label)
    python = os.path.realpath(sys.executable)
    if refusal := cannot_execute(user, python):
        lacking(f"{user.name} cannot execute {python}: {refusal}")
    place = Path(tempfile.mkdtemp(prefix=f"eka-host-{label}-"))
    place.chmod(0o755)
    (place / "rootfs").symlink_to(rootfs)
    (place / "state").mkdir(mode=0o700)
    os.chown(place / "state", user.uid, user.gid)
    try:
        yield Box(user, mode, runtime, place, python, source)
    finally:
        shutil.rmtree(place)


@pytest.fixture(params=every(labels(), ("outer", "direct")))
def box(request: pytest.FixtureRequest, rootfs: Path, source: Path) -> Iterator[Box]:
    """Every combination of user, mode and runtime."""
    with make_box(request.param, rootfs, source) as made:
        yield made


@pytest.fixture(params=every(labels()[-1:], ("outer", "direct")))
def any_box(request: pytest.FixtureRequest, rootfs: Path, source: Path) -> Iterator[Box]:
    """Every mode and runtime, as the least privileged user there is."""
    with make_box(request.param, rootfs, source) as made:
        yield made


@pytest.fixture(params=every(labels()[-1:], ("outer",)))
def outer(request: pytest.FixtureRequest, rootfs: Path, source: Path) -> Iterator[Box]:
    with make_box(request.param, rootfs, source) as made:
        yield made


@pytest.fixture(params=every(labels()[-1:], ("degraded",)))
def degraded(request: pytest.FixtureRequest, rootfs: Path, source: Path) -> Iterator[Box]:
    with make_box(request.param, rootfs, source) as made:
        yield made


@pytest.fixture(params=every(labels()[-1:], ("direct",)))
def direct(request: pytest.FixtureRequest, rootfs: Path, source: Path) -> Iterator[Box]:
    with make_box(request.param, rootfs, source) as made:
        yield made
