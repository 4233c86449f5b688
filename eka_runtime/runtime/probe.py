"""How bundles can be started on this host: found out by starting one (`trial.py`), and kept.

    $XDG_CACHE_HOME/eka/host.json    {"key": …, "host": …}, replaced atomically

The key holds what may change the answer: the boot, the user, the namespaces (a home is often shared
with containers), the runtimes' files, this code. An answer that needed a second try is not kept, so
that a lifted restriction is noticed at once. Out of scope: explaining (facts.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eka_runtime.errors import ConfigError, RuntimeMissing
from eka_runtime.runtime.host import Host as Host
from eka_runtime.runtime.host import Runtime, hybrid_cgroups
from eka_runtime.runtime.launch import KINDS

MODES = ("outer", "direct", "degraded")

_CODE = ("enter", "launch", "probe", "trial")
"""Modules that an answer depends on."""
_PLACES = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_INSTALL = (
    "install crun (on Debian and Ubuntu `apt-get install crun`, on Fedora `dnf install crun`)"
)


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
    from eka_runtime.runtime.trial import try_all

    host = try_all(modes, runtimes)
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
    import subprocess

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


def _cache_file(environ: Mapping[str, str]) -> Path:
    cache = environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if cache.startswith("/") else Path(os.path.expanduser("~"), ".cache")
    return base / "eka" / "host.json"


def _key(modes: tuple[str, ...], runtimes: tuple[Runtime, ...]) -> list[Any]:
    code = [f"{os.path.dirname(__file__)}/{name}.py" for name in _CODE]
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
