"""What a person should know of this host: for `eka doctor`, and for the error when nothing works.

Every fact is found by doing it (experiments.py); sysctls and the like are read only to say why
something failed. Out of scope: choosing how to start bundles (probe.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import eka_runtime
from eka_runtime.linux.userns import subordinate_ids
from eka_runtime.runtime.init import find_init

_RUN = """\
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from eka_runtime.runtime.experiments import main
main(Path(sys.argv[2]))
"""
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


class Fact(NamedTuple):
    """`remedy` is what lifts a fact that is not ok: a command in backticks, or a sentence."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


class Obstacle(NamedTuple):
    problem: str
    remedy: str


def survey() -> list[Fact]:
    """Everything about the host itself; the runtimes and the mode in force are `probe`'s."""
    outcomes = _experiment()
    return [
        _user_namespaces(outcomes),
        _new_proc(outcomes),
        _host_name(outcomes),
        _subordinate_ids(),
        _init(),
        _cgroups(),
        _fuse(),
        _data_overlay(outcomes),
    ]


def userns_obstacle() -> Obstacle | None:
    """Why this user cannot have a user namespace and mount in it; None if he can."""
    outcomes = _experiment()
    error = outcomes["user_namespace"] or outcomes["tmpfs"]
    if not error:
        return None
    return explain_userns(error, _sysctls(), _has_seccomp_filter())


def data_overlay_error() -> str:
    """Why this user has no data-only overlays; "" if he has."""
    return _experiment()["data_overlay"]


def _experiment() -> Mapping[str, str]:
    root = os.path.dirname(os.path.dirname(os.path.abspath(eka_runtime.__file__)))
    with tempfile.TemporaryDirectory(prefix="eka-doctor-") as place:
        words = [sys.executable, "-ISE", "-c", _RUN, root, place]
        done = subprocess.run(words, capture_output=True, check=True)
    outcomes: dict[str, str] = json.loads(done.stdout)
    return outcomes


def _sysctls() -> dict[str, str]:
    """Those that are set against user namespaces."""
    harmful = {
        "kernel.unprivileged_userns_clone": "0",
        "user.max_user_namespaces": "0",
        "kernel.apparmor_restrict_unprivileged_userns": "1",
    }
    found = {}
    for name, value in harmful.items():
        try:
            text = Path("/proc/sys", *name.split(".")).read_text().strip()
        except OSError:
            continue
        if text == value:
            found[name] = value
    return found


def _has_seccomp_filter() -> bool:
    return "\nSeccomp:\t2\n" in Path("/proc/self/status").read_text()


def explain_userns(error: str, sysctls: Mapping[str, str], seccomp: bool) -> Obstacle:
    """The reason most likely behind `error`, and the one thing that removes it."""
    problem = f"this host denies user namespaces: {error}"
    allowed = {
        "kernel.unprivileged_userns_clone": "1",
        "user.max_user_namespaces": "15000",
        "kernel.apparmor_restrict_unprivileged_userns": "0",
    }
    for name, value in sysctls.items():
        return Obstacle(
            f"{problem} (`{name}` is {value})", f"as root, run `sysctl -w {name}={allowed[name]}`"
        )
    if seccomp:
        return Obstacle(
            f"{problem} (a seccomp filter is in force, as in containers)",
            "start the container with `--security-opt seccomp=unconfined`",
        )
    return Obstacle(problem, "ask the administrator to allow unprivileged user namespaces")


def _user_namespaces(outcomes: Mapping[str, str]) -> Fact:
    name = "user namespaces"
    error = outcomes["user_namespace"] or outcomes["tmpfs"]
    if not error:
        return Fact(name, True, "allowed, with mounts")
    problem, remedy = explain_userns(error, _sysctls(), _has_seccomp_filter())
    return Fact(name, False, problem, remedy)


def _new_proc(outcomes: Mapping[str, str]) -> Fact:
    name, error = "new /proc", outcomes["new_proc"]
    return Fact(
        name, not error, error or "can be mounted", _of_container(outcomes) if error else ""
    )


def _host_name(outcomes: Mapping[str, str]) -> Fact:
    name, error = "host name", outcomes["hostname"]
    return Fact(name, not error, error or "can be set", _of_container(outcomes))


def _of_container(outcomes: Mapping[str, str]) -> str:
    """With what a container has to be started; all of it, as any part alone is of no use."""
    podman, docker = [], []
    if outcomes["new_proc"]:
        podman.append("--security-opt unmask=ALL")
        docker.append("--security-opt systempaths=unconfined")
    if outcomes["hostname"] and _has_seccomp_filter():
        podman.append("--security-opt seccomp=unconfined")
        docker.append("--security-opt seccomp=unconfined")
    if not podman:
        return ""
    return (
        f"start the container with `{' '.join(podman)}` (podman) or `{' '.join(docker)}` (docker)"
    )


def _subordinate_ids() -> Fact:
    name = "subordinate ids"
    uid = os.geteuid()
    users, groups = (subordinate_ids(Path(file), uid) for file in ("/etc/subuid", "/etc/subgid"))
    if not users or not groups:
        return Fact(name, False, "none: bundles with more than one user id do not start")
    if shutil.which("newuidmap", path=_PATH) is None:
        return Fact(name, False, "newuidmap is missing", "install the package `uidmap`")
    ranges = ", ".join(f"{first}+{size}" for first, size in users)
    return Fact(name, True, ranges)


def _init() -> Fact:
    found = find_init()
    if found is not None:
        return Fact("static init", True, found.path)
    detail = "none: outside the outer mode, programs ignore signals they do not handle"
    return Fact("static init", False, detail, "install tini (on Debian `apt-get install tini`)")


def _cgroups() -> Fact:
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return Fact("cgroups", True, "version 2")
    if os.path.exists("/sys/fs/cgroup/unified/cgroup.controllers"):
        return Fact("cgroups", True, "hybrid")
    present = os.path.isdir("/sys/fs/cgroup/memory")
    return Fact("cgroups", True, "version 1" if present else "not mounted")


def _fuse() -> Fact:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        remedy = "as root, run `chmod 666 /dev/fuse`, or give the container `--device /dev/fuse`"
        return Fact("/dev/fuse", False, str(error.strerror), remedy)
    return Fact("/dev/fuse", True, "can be opened")


def _data_overlay(outcomes: Mapping[str, str]) -> Fact:
    error = outcomes["data_overlay"]
    return Fact("data-only overlay", not error, error or "works without privileges")
