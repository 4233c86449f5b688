"""Plans a start: adapts a portable bundle to this host's mode and runtime, once, on the cold path.

The plan is plain data that `enter` executes and a launch record can hold; a later start fills in
its own arguments, environment and terminal and needs nothing of this module. Out of scope: finding
out what the host can do (probe.py), making bundles (eka_runtime.oci).
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import time
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from eka_runtime.errors import HostError, SpecError
from eka_runtime.linux.seccomp import compile_filter
from eka_runtime.linux.syscalls import opens_without_links
from eka_runtime.runtime.crun import BPF_ANNOTATION, CRUN
from eka_runtime.runtime.enter import enter
from eka_runtime.runtime.host import Host
from eka_runtime.runtime.init import Init, find_init
from eka_runtime.runtime.kind import Config, Kind, namespace_types
from eka_runtime.runtime.limits import Enforced, enforce, own_groups
from eka_runtime.runtime.planned import Plan
from eka_runtime.runtime.runc import RUNC
from eka_runtime.runtime.view_server import served_mount, server_words

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (CRUN, RUNC)}

_NETWORK, _NESTING = "dev.eka.network", "dev.eka.nesting"  # eka_runtime.oci.bundle
_PATH_LIMIT = 98  # a socket with 8 letters lies in the state directory; its path has 107 at most
_SOCKETS_KEPT = 3600  # seconds, in which every runtime has connected to its own
_WRITTEN_DOWN = ("status", "state.json")  # what crun and runc know of a container
_SBIN = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_SMALLEST_NOFILE = 512
_CGROUPS = ("/sys/fs/cgroup",)
# `_hole` as JSON writes it. No valid configuration holds a NUL.
_HOLE = re.compile(r'"\\u0000eka:([a-z]+)"')


def plan(
    spec: Mapping[str, Any],
    bundle_dir: Path,
    host: Host,
    *,
    state: Path,
    terminal: bool = True,
    granted: Collection[str] = (),
) -> Plan:
    """How to start `spec` (a bundle's config.json) on `host`.

    `args`, `env` and `terminal` of the spec's process are left out: they belong to a start. With
    `terminal`, the program gets a terminal when the starting process has one on all three streams.
    Where the program makes containers of its own, /proc hides nothing: a runtime inside has to see
    processes that it may not trace, as its own are until they run.
    Mounts at `granted` places have sources that others can change: at each start they are opened
    without following links, where the mode allows it.
    SpecError when the spec lacks what every bundle has.
    """
    config = copy.deepcopy(dict(spec))
    kind = KINDS[host.kind]
    try:
        single = _maps_single_id(config, host)
        mode = host.mode if single or host.mode != "outer" else "direct"
        _make_absolute(config, bundle_dir)
        mount = served_mount(config)
        _own_user_namespace(config, host)
        _ADAPT[mode](config, host)
        kind.adapt(config)
        directory = os.fspath(_state_directory(state, with_socket=terminal))
        pinned = _pin(config, granted, directory) if mode == "outer" else ()
        no_network = mode == "outer" and _take_network(config)
        if host.bpf:
            _compile_filter(config)
        init = _add_init(config, find_init()) if mode != "outer" else ()
        descriptors = _needed_descriptors(config)
        limits = enforce(config, host, kind, mode, descriptors)
        rlimits = (*limits.rlimits, *_own_nofile(limits, kind))
        if rlimits:
            config["process"]["rlimits"] = [_hole("limits")]
        template = _template(config)
    except (KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"not a config.json that can be started: {error!r}") from error
    if mount and mode != "outer":
        raise HostError(
            f"the fuse view needs the runtime mode `outer`, not `{mode}`",
            hint="take another view; `eka doctor` says what this host allows",
        )
    options = (option.format(state=directory) for option in kind.options)
    outer = mode == "outer"
    runtime = (host.runtime, *options)
    if not outer:
        makes_groups = kind.makes_cgroups and host.uid == 0
        _sweep(Path(directory), runtime, own_groups() if makes_groups else ())
    return Plan(
        mode=mode,
        runtime=runtime,
        path="" if single else _SBIN,
        state=directory,
        template=template,
        init=init,
        terminal=terminal,
        console=outer or kind.hands_over_terminals,
        descriptors=descriptors,
        rlimits=rlimits,
        shell=limits.shell,
        no_network=no_network,
        pinned=pinned,
        milliseconds=limits.milliseconds,
        groups=limits.groups,
        settle=limits.settle,
        cover=host.cover if outer else (),
        readonly=_CGROUPS if outer and kind.makes_cgroups and host.uid == 0 else (),
        protect=outer and kind.clones_itself,
        proc=b"" if _NESTING in config.get("annotations", {}) else host.proc.encode(),
        serve=(mount, *server_words(mount)) if mount else (),
    )


def shortfalls(spec: Mapping[str, Any], host: Host) -> tuple[str, ...]:
    """Sentences about limits of `spec` that are kept on `host` in part or not at all."""
    config = copy.deepcopy(dict(spec))
    return enforce(config, host, KINDS[host.kind], host.mode, 0).lacking


def run_bundle(
    bundle_dir: Path,
    host: Host,
    args: Sequence[str] | None = None,
    *,
    state: Path | None = None,
) -> int:
    """Starts a bundle on disk with its own environment, and its own arguments unless given.

    Takes over the process as `enter` does: `os._exit` with the result. SpecError when config.json
    cannot be read as JSON.
    """
    file = bundle_dir / "config.json"
    try:
        spec = json.loads(file.read_bytes())
        process = spec["process"]
        words = [os.fsencode(word) for word in (process["args"] if args is None else args)]
        env = [os.fsencode(variable) for variable in process.get("env", [])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{file}: {error}") from error
    state = state or default_state_directory(os.environ)
    return enter(plan(spec, bundle_dir, host, state=state), words, env)


def default_state_directory(environ: Mapping[str, str]) -> Path:
    """Where runtimes keep their state: $XDG_RUNTIME_DIR/eka, else below the cache.

    In /tmp if that has a long name: there may be sockets in it, whose paths must be short.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK):
        return Path(runtime, "eka")
    cache = environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if cache.startswith("/") else Path(os.path.expanduser("~"), ".cache")
    place = base / "eka" / "run"
    if len(os.fsencode(place)) > _PATH_LIMIT:
        return Path("/tmp", f"eka-{os.geteuid()}")
    return place


def _state_directory(path: Path, *, with_socket: bool) -> Path:
    """Makes it, for this user alone."""
    absolute = Path(os.path.abspath(path))
    if with_socket and len(os.fsencode(absolute)) > _PATH_LIMIT:
        hint = "set `XDG_RUNTIME_DIR` to a directory with a shorter name"
        raise HostError(f"the path of the state directory is too long: {absolute}", hint=hint)
    try:
        absolute.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = absolute.lstat()  # in /tmp others could have made a link of that name
    except OSError as error:
        raise HostError(f"cannot use the state directory `{absolute}`: {error.strerror}") from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise HostError(
            f"the state directory `{absolute}` belongs to someone else, or others may write to it",
            hint=f"make it yours alone: `chmod 700 {absolute}`",
        )
    return absolute


def _sweep(state: Path, runtime: tuple[str, ...], groups: Iterable[Path]) -> None:
    """Removes what launchers left that were killed; `enter` names a container by its launcher.

    A runtime that was killed with its launcher may not have written down what it made.
    """
    for left in _left(state):
        import subprocess  # which a start has no use for otherwise

        words = (*runtime, "delete", "--force", left.name)
        subprocess.run(words, capture_output=True, check=False, env={})
        if not any((left / name).exists() for name in _WRITTEN_DOWN):
            shutil.rmtree(left, ignore_errors=True)
    for group in groups:
        for left in _left(group):
            with suppress(OSError):  # somebody is in it
                left.rmdir()
    for left in state.glob("?" * 8):
        with suppress(FileNotFoundError):
            if left.is_socket() and time.time() - left.stat().st_mtime > _SOCKETS_KEPT:
                left.unlink()


def _left(directory: Path) -> Iterator[Path]:
    for left in directory.glob("eka-*"):
        launcher = left.name.split("-")[1]
        if launcher.isdecimal() and not _lives(launcher):
            yield left


def _lives(pid: str) -> bool:
    """The dead whom nobody has waited for are dead: proc_pid_stat(5)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True  # of whom nothing is known, nothing is removed
    return status.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def _maps_single_id(config: Config, host: Host) -> bool:
    """Whether the only id that the bundle knows is the caller's; no map at all means that, too."""
    linux = config.get("linux", {})
    return all(
        [(entry["hostID"], entry["size"]) for entry in linux.get(key) or []] in ([], [(own, 1)])
        for key, own in (("uidMappings", host.uid), ("gidMappings", host.gid))
    )


def _make_absolute(config: Config, bundle_dir: Path) -> None:
    """The runtime is given another bundle directory, where only config.json is."""
    root = config["root"]
    root["path"] = os.path.realpath(bundle_dir / root["path"])  # runc wants no link in it
    for mount in config.get("mounts", []):
        if {"bind", "rbind"} & set(mount.get("options", [])):
            mount["source"] = os.path.abspath(bundle_dir / mount["source"])


def _own_user_namespace(config: Config, host: Host) -> None:
    linux = config.setdefault("linux", {})
    if "user" not in namespace_types(config):
        linux.setdefault("namespaces", []).append({"type": "user"})
    user = config["process"]["user"]
    for key, inside, own in (
        ("uidMappings", user["uid"], host.uid),
        ("gidMappings", user["gid"], host.gid),
    ):
        if not linux.get(key):
            linux[key] = [{"containerID": inside, "hostID": own, "size": 1}]


def _adapt_outer(config: Config, host: Host) -> None:
    """Inside the launcher's namespaces the caller is 0, and processes are numbered already."""
    linux = config["linux"]
    for key in ("uidMappings", "gidMappings"):
        for entry in linux[key]:
            entry["hostID"] = 0
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "pid"]
    _bind_proc(config)


def _adapt_direct(config: Config, host: Host) -> None:
    if "pid" not in namespace_types(config):
        config["linux"]["namespaces"].append({"type": "pid"})


def _adapt_degraded(config: Config, host: Host) -> None:
    """For the inside of containers that deny a new /proc and a host name."""
    _adapt_direct(config, host)
    _bind_proc(config)
    config.pop("hostname", None)
    config.pop("domainname", None)


_ADAPT = {"outer": _adapt_outer, "direct": _adapt_direct, "degraded": _adapt_degraded}


def _bind_proc(config: Config) -> None:
    for mount in config.get("mounts", []):
        if mount.get("type") == "proc":
            # These flags are locked on the launcher's /proc; leaving one out is denied.
            options = {"rbind": None, "nosuid": None, "noexec": None, "nodev": None}
            options |= dict.fromkeys(mount.get("options", []))
            mount |= {"type": "bind", "source": "/proc", "options": [*options]}


def _pin(config: Config, granted: Collection[str], directory: str) -> tuple[tuple[str, str], ...]:
    """Lets the runtime find granted sources in the state directory, put there by the launcher."""
    if not granted or not opens_without_links("/"):
        return ()
    pinned: list[tuple[str, str]] = []
    for mount in config.get("mounts", []):
        if mount["destination"] in granted and {"bind", "rbind"} & set(mount.get("options", [])):
            target = f"{directory}/granted-{len(pinned)}"
            pinned.append((mount["source"], target))
            mount["source"] = target
    return tuple(pinned)


def _take_network(config: Config) -> bool:
    """Runtimes bring up the loopback of a namespace that they make, but not of one they are in."""
    linux = config["linux"]
    off = config.get("annotations", {}).get(_NETWORK) == "off"
    if not off or "network" not in namespace_types(config):
        return False
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "network"]
    return True


def _compile_filter(config: Config) -> None:
    seccomp = config["linux"].get("seccomp")
    program = _program(json.dumps(seccomp)) if seccomp else None
    if program is not None:
        del config["linux"]["seccomp"]
        config.setdefault("annotations", {})[BPF_ANNOTATION] = b64encode(program).decode("ascii")


@lru_cache(maxsize=4)
def _program(seccomp: str) -> bytes | None:
    # 15 ms, and builds by the hundreds have the same.
    return compile_filter(json.loads(seccomp))


def _add_init(config: Config, init: Init | None) -> tuple[str, ...]:
    """Process 1 ignores signals it has no handler for, so a program should not be it."""
    places = [mount["destination"] for mount in config["mounts"] if mount.get("type") == "tmpfs"]
    if init is None or "/dev" not in places:
        return ()
    mount = {"destination": "/dev/init", "type": "bind", "source": init.path}
    config["mounts"].append(mount | {"options": ["bind", "ro", "nosuid", "nodev"]})
    return ("/dev/init", *init.options)


def _needed_descriptors(config: Config) -> int:
    """One for every bind mount, generously: runtimes keep them open. Small numbers, that no one's
    limit is below, are not worth looking at."""
    needed = 100 + 2 * len(config.get("mounts", []))
    return needed if needed > _SMALLEST_NOFILE else 0


def _own_nofile(limits: Enforced, kind: Kind) -> tuple[tuple[str, int, int], ...]:
    """The caller's own, for a runtime that would leave the program with another."""
    stated = "RLIMIT_NOFILE" in {name for name, _, _ in limits.rlimits}
    return (("RLIMIT_NOFILE", _INFINITE, _INFINITE),) if kind.raises_nofile and not stated else ()


_INFINITE = 2**64 - 1


def _hole(name: str) -> str:
    return f"\0eka:{name}"


def _template(config: Config) -> tuple[bytes | str, ...]:
    """config.json in pieces: text, and the names of the holes between."""
    process = config["process"]
    process.pop("consoleSize", None)
    process |= {"args": [_hole("args")], "env": [_hole("env")], "terminal": _hole("terminal")}
    pieces = _HOLE.split(json.dumps(config, separators=(",", ":")))
    return tuple(
        piece if index % 2 else piece.encode("ascii") for index, piece in enumerate(pieces)
    )
