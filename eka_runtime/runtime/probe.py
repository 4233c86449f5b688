"""Finds out how bundles can be started on this host, by starting one.

Every mode and runtime is tried, best first, until an empty bundle gets as far as executing its
program: no versions are compared and no distributions are known. That costs two starts of Python
and one of the runtime, so a success is kept:

    $XDG_CACHE_HOME/eka/host.json    {"key": …, "host": …}, replaced atomically

The key holds what may change the answer: the boot, the user, the namespaces (a home is often shared
with containers), the runtimes' files, this code. An answer that needed a second try is not kept, so
that a lifted restriction is noticed at once. Out of scope: explaining (facts.py).
"""

from __future__ import annotations

import contextlib
import errno
import json
import marshal
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import eka_runtime
from eka_runtime.errors import ConfigError, HostError, RuntimeMissing, UsernsForbidden
from eka_runtime.runtime import enter
from eka_runtime.runtime.host import Host as Host
from eka_runtime.runtime.launch import KINDS, plan

MODES = ("outer", "direct", "degraded")

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

_PLACES = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_UNIFIED = "/sys/fs/cgroup/unified"
_PROGRAM = "/eka-probe"
_INSTALL = (
    "install crun (on Debian and Ubuntu `apt-get install crun`, on Fedora `dnf install crun`)"
)


class Runtime(NamedTuple):
    path: str
    kind: str


def probe(*, refresh: bool = False, environ: Mapping[str, str] = os.environ) -> Host:
    """The best way to start bundles here; with `refresh`, whatever an earlier probe found.

    EKA_RUNTIME (crun, runc or a path) and EKA_MODE narrow the choice. Raises RuntimeMissing,
    UsernsForbidden, or HostError with what the runtimes said.
    """
    modes = _modes(environ)
    runtimes = find_runtimes(environ)
    file = _cache_file(environ)
    key = _key(modes, runtimes)
    cached = None if refresh else _load(file, key)
    if cached is not None:
        return cached
    host = _try_all(modes, runtimes)
    if not host.refused:
        _store(file, key, host)
    return host


def overlay_obstacle(environ: Mapping[str, str] = os.environ) -> str:
    """Why this user has no data-only overlays, "" if he has; found out once per boot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    kept = _cache_file(environ).with_name(f"overlay-{os.geteuid()}")
    with contextlib.suppress(OSError):
        known, _, problem = kept.read_text().partition(" ")
        if known == boot:
            return problem
    from eka_runtime.runtime.facts import data_overlay_error

    problem = data_overlay_error()
    if not problem:
        _replace(kept, f"{boot} ")
    return problem


def find_runtimes(environ: Mapping[str, str]) -> tuple[Runtime, ...]:
    """crun first; looks in PATH and in the usual places, as /usr/sbin is on no user's PATH."""
    path = f"{environ.get('PATH', '')}:{_PLACES}"
    wanted = environ.get("EKA_RUNTIME", "")
    if wanted and wanted not in KINDS:
        return (_named_runtime(wanted, path),)
    found = [
        Runtime(os.path.abspath(place), name)
        for name in ([wanted] if wanted else KINDS)
        if (place := shutil.which(name, path=path))
    ]
    if not found:
        raise RuntimeMissing(f"{wanted or 'neither crun nor runc'} was not found", hint=_INSTALL)
    return tuple(found)


def _named_runtime(name: str, path: str) -> Runtime:
    place = shutil.which(name, path=path)
    if place is None:
        raise RuntimeMissing(
            f"the container runtime `{name}` (EKA_RUNTIME) is not an executable file", hint=_INSTALL
        )
    kind = runtime_version(place).partition(" ")[0]
    if kind not in KINDS:
        raise RuntimeMissing(f"`{place}` (EKA_RUNTIME) says that it is neither crun nor runc")
    return Runtime(os.path.abspath(place), kind)


def runtime_version(path: str) -> str:
    """Such as "crun version 1.8.1"; empty if it does not start."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, check=False, text=True)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0]


def _modes(environ: Mapping[str, str]) -> tuple[str, ...]:
    wanted = environ.get("EKA_MODE", "")
    if wanted and wanted not in MODES:
        raise ConfigError(f"EKA_MODE is `{wanted}`", hint=f"set it to one of: {', '.join(MODES)}")
    return (wanted,) if wanted else MODES


def _try_all(modes: tuple[str, ...], runtimes: tuple[Runtime, ...]) -> Host:
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


def hybrid_cgroups() -> tuple[str, ...]:
    """The tree that must be hidden from crun: it refuses a cgroup2 that shares its controllers."""
    try:
        controllers = Path(_UNIFIED, "cgroup.controllers").read_text()
    except OSError:
        return ()
    return (_UNIFIED,) if controllers.strip() else ()


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


def _cache_file(environ: Mapping[str, str]) -> Path:
    cache = environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if cache.startswith("/") else Path(os.path.expanduser("~"), ".cache")
    return base / "eka" / "host.json"


def _key(modes: tuple[str, ...], runtimes: tuple[Runtime, ...]) -> list[Any]:
    code = [enter.__file__, __file__, sys.modules[plan.__module__].__file__ or ""]
    namespaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "pid")]
    return [
        Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        *(os.uname().release, os.geteuid(), os.getegid(), sys.executable),
        *namespaces,
        *modes,
        *(list(runtime) for runtime in runtimes),
        *(_stamp(file) for file in (*code, *(runtime.path for runtime in runtimes))),
        *hybrid_cgroups(),
    ]


def _stamp(file: str) -> list[int]:
    status = os.stat(file)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _load(file: Path, key: list[Any]) -> Host | None:
    try:
        kept = json.loads(file.read_bytes())
        if kept["key"] != key:
            return None
        fields = kept["host"]
        return Host(**(fields | {"cover": tuple(fields["cover"]), "refused": ()}))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _store(file: Path, key: list[Any], host: Host) -> None:
    _replace(file, json.dumps({"key": key, "host": host._asdict()}))


def _replace(file: Path, text: str) -> None:
    """A cache that cannot be written costs time, nothing else."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.write_text(text)
        fresh.rename(file)
