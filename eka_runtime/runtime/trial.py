"""Tries every mode and runtime by starting an empty bundle, best first (see `probe.py`).

No versions are compared and no distributions are known: what counts is that a runtime gets as far
as executing the program. Costs two starts of Python and one of the runtime for each try.
"""

from __future__ import annotations

import errno
import marshal
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import eka_runtime
from eka_runtime.errors import HostError, UsernsForbidden
from eka_runtime.runtime.host import Host, Runtime, hybrid_cgroups
from eka_runtime.runtime.launch import KINDS, plan

# The program must not see the processes that started it. Kernels before 5.8 lack the first, which
# holds for members of group 0, too.
PROC_OPTIONS = ("hidepid=4", "hidepid=2", "")

RUNNER = """\
import marshal, posix, sys
sys.path.insert(0, sys.argv[1])
from eka_runtime.runtime import enter
with open(sys.argv[2], "rb") as file:
    planned, args, env = marshal.load(file)
try:
    posix._exit(enter.enter(planned, args, env))
except enter.Refused as error:
    posix.write(2, f"error: {error}".encode())
    posix._exit(enter.FAILED)
"""
"""For `python -ISE -c RUNNER ROOT FILE`: starts the (plan, args, env) marshalled in FILE."""

_PROGRAM = "/eka-probe"


def try_all(modes: tuple[str, ...], runtimes: tuple[Runtime, ...]) -> Host:
    """Raises UsernsForbidden, or HostError with what the runtimes said."""
    refused: list[str] = []
    for candidate in _candidates(modes, runtimes):
        host, error = attempt_options(candidate, PROC_OPTIONS)
        if not error:
            host = host._replace(bpf=_takes_bpf(host))
            return host._replace(refused=tuple(refused))
        refused.append(f"{host.mode} {host.kind}: {error}")
    raise _failure(refused)


def attempt_options(host: Host, options: Sequence[str]) -> tuple[Host, str]:
    """`attempt` with the first options for /proc that this kernel knows."""
    error = ""
    for proc in options:
        host = host._replace(proc=proc)
        error = attempt(host)
        if host.mode != "outer" or error != "mount /proc: Invalid argument":
            break
    return host, error


def _candidates(modes: tuple[str, ...], runtimes: tuple[Runtime, ...]) -> Iterator[Host]:
    cover = hybrid_cgroups()
    for mode in modes:
        for path, kind in runtimes:
            host = Host(mode, path, kind, os.geteuid(), os.getegid())
            yield host._replace(cover=cover if kind == "crun" else ())


def attempt(host: Host) -> str:
    """Starts an empty bundle as `host` says; why that failed, or "" if it would have run.

    No kernel executes its program, so a runtime that reports just this has done all the rest:
    namespaces, mounts, the change of root, the host name. (One that is not there is found missing
    before the host name is set, which some containers deny.)
    """
    done = _start(host, _empty_bundle(host))
    reason = os.strerror(errno.ELOOP).lower().encode()
    if reason in done.stderr.lower() and _PROGRAM.encode() in done.stderr:
        return ""
    return _first_line(done.stderr) or f"ended with status {done.returncode}"


def _takes_bpf(host: Host) -> bool:
    """Whether a filter that the runtime is given ready-made is in force afterwards.

    Under this one, executing fails with an error that it has for no other reason.
    """
    if not KINDS[host.kind].takes_bpf:
        return False
    bundle = _empty_bundle(host)
    execute = {"names": ["execve", "execveat"], "action": "SCMP_ACT_ERRNO"}
    rules = [execute | {"errnoRet": errno.EUCLEAN}]
    bundle["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    done = _start(host._replace(bpf=True), bundle)
    return os.strerror(errno.EUCLEAN).encode() in done.stderr


def _start(host: Host, bundle: dict[str, Any]) -> subprocess.CompletedProcess[bytes]:
    """Starts a bundle whose program is a script that is to be interpreted by itself: ELOOP.

    An empty file would do for a runtime, but an init looks for a shell then: execvp(3).
    """
    with tempfile.TemporaryDirectory(prefix="eka-probe-") as name:
        place = Path(name)
        (place / "rootfs").mkdir()
        program = place / "rootfs" / _PROGRAM[1:]
        program.write_text(f"#!{_PROGRAM}\n")
        program.chmod(0o755)
        planned = plan(bundle, place, host, state=place / "state", terminal=False)
        start = place / "start"
        content: Any = (planned, [_PROGRAM.encode()], [])
        start.write_bytes(marshal.dumps(content))
        root = os.path.dirname(os.path.dirname(os.path.abspath(eka_runtime.__file__)))
        words = [sys.executable, "-ISE", "-c", RUNNER, root, os.fspath(start)]
        return subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, check=False)


def _first_line(output: bytes) -> str:
    text = output.decode(errors="replace").partition("\n")[0].strip()
    return text.removeprefix("error: ").removeprefix("cannot start the bundle: ")


def _empty_bundle(host: Host) -> dict[str, Any]:
    """What bundles ask of a host: all namespaces, new file systems, a seccomp filter."""
    namespaces = ("user", "pid", "mount", "ipc", "uts", "network", "cgroup")
    none: list[str] = []
    kinds = ("bounding", "effective", "inheritable", "permitted", "ambient")
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "eka",
        "process": {
            "user": {"uid": host.uid, "gid": host.gid},
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {kind: none for kind in kinds},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666", "mode=0620"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        },
    }


def _failure(refused: list[str]) -> HostError:
    from eka_runtime.runtime.facts import userns_obstacle

    obstacle = userns_obstacle()
    if obstacle is not None:
        return UsernsForbidden(obstacle.problem, hint=obstacle.remedy)
    tried = "".join(f"\n  {line}" for line in refused)
    hint = "run `eka doctor` to see what this host allows"
    return HostError(f"no container can be started here{tried}", hint=hint)
