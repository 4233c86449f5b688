"""How this host enforces the limits of a bundle: control groups where it gives any, else rlimits.

All is found out by doing, on the cold path. config.json is changed to what the runtime can do, and
what eka does itself goes into the plan:

    memory  a control group; else RLIMIT_DATA for each process, and a size for each tmpfs
    pids    a control group; else RLIMIT_NPROC, which counts in the bundle's own user namespace
            since Linux 5.14, and never root's
    time    a timer of the launcher
    others  rlimits, never above the caller's own

Limits that the runtime would be hit by itself are set by the bundle's shell.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from eka_runtime.linux.userns import enter_user_namespace
from eka_runtime.runtime.cgroup import Groups
from eka_runtime.runtime.host import Host
from eka_runtime.runtime.kind import Config, Kind

Settings = tuple[tuple[str, str], ...]
Placed = tuple[str, Settings]

_TIME = "dev.eka.limit.time"  # eka_runtime.oci.limits
_PIDS: Settings = (("pids.max", "100"),)
_FEW = 512  # open files that a runtime may need in any case


class Enforced(NamedTuple):
    """`lacking` are sentences about limits that are in force in part or not at all."""

    groups: tuple[Placed, ...] = ()
    settle: tuple[tuple[int, str, str], ...] = ()  # once the runtime is done: group, file, value
    rlimits: tuple[tuple[str, int, int], ...] = ()
    shell: str = ""  # commands ahead of the program
    milliseconds: int = 0
    lacking: tuple[str, ...] = ()


def enforce(config: Config, host: Host, kind: Kind, mode: str, descriptors: int) -> Enforced:
    """Takes the limits out of `config`, and says how they are kept instead.

    `descriptors` is how many the runtime may need for itself.
    """
    milliseconds = int(config.get("annotations", {}).get(_TIME, "0"))
    enforced = Enforced(milliseconds=milliseconds)
    linux = config["linux"]
    wanted = linux.get("resources") or {}
    if kind.makes_cgroups and host.uid == 0 and mode != "outer":
        if "pids" in wanted:
            wanted["pids"]["limit"] += 1  # init
        return _limit_processes(enforced, config, descriptors)
    for key in ("cgroupsPath", "resources"):
        linux.pop(key, None)
    memory = wanted.get("memory", {}).get("limit", -1)
    pids = wanted.get("pids", {}).get("limit", -1)
    if memory > 0:
        enforced = _limit_memory(enforced, config, memory)
    if pids > 0:
        enforced = _limit_pids(enforced, pids, mode, kind)
    return _limit_processes(enforced, config, descriptors)


def _limit_memory(enforced: Enforced, config: Config, limit: int) -> Enforced:
    for version, place in _places("memory"):
        group = (place, _memory_settings(version, limit))
        if _works(group):
            return enforced._replace(groups=(*enforced.groups, group))
    _add_rlimit(config, "RLIMIT_DATA", limit)
    for mount in config.get("mounts", []):
        options = mount.get("options", [])
        if mount.get("type") == "tmpfs" and not any(o.startswith("size=") for o in options):
            mount["options"] = [*options, f"size={limit}"]
    lacking = "memory is limited for each process and each tmpfs, not for all together"
    return enforced._replace(lacking=(*enforced.lacking, lacking))


def _limit_pids(enforced: Enforced, limit: int, mode: str, kind: Kind) -> Enforced:
    for _, place in _places("pids"):
        # Init is in the group and, outside the outer mode for good, the runtime. Where it detaches
        # from its container it needs one process more.
        most = limit + 1 + kind.threads + (mode == "outer")
        group = (place, (("pids.max", str(most)),))
        if _works(group):
            settle = (
                ((len(enforced.groups), "pids.max", str(limit + 1)),) if mode == "outer" else ()
            )
            return enforced._replace(groups=(*enforced.groups, group), settle=settle)
    if counts_processes():
        own = limit if mode == "outer" else limit + 1  # there, init is one of them
        shell = f"ulimit -p {own} 2>/dev/null || ulimit -u {own} || exit 125; "
        return enforced._replace(shell=enforced.shell + shell)
    lacking = "the number of processes is not limited: there is no control group for it"
    return enforced._replace(lacking=(*enforced.lacking, lacking))


def _limit_processes(enforced: Enforced, config: Config, descriptors: int) -> Enforced:
    """rlimits: some by the runtime, what it needs for itself by the shell."""
    process = config["process"]
    kept = []
    for limit in process.get("rlimits") or []:
        if limit["type"] == "RLIMIT_NOFILE" and limit["hard"] < max(descriptors, _FEW):
            shell = f"ulimit -n {limit['hard']} || exit 125; "
            enforced = enforced._replace(shell=enforced.shell + shell)
        else:
            kept.append((limit["type"], limit["soft"], limit["hard"]))
    process.pop("rlimits", None)
    return enforced._replace(rlimits=tuple(kept))


def _add_rlimit(config: Config, name: str, value: int) -> None:
    limits = config["process"].setdefault("rlimits", [])
    if name not in {limit["type"] for limit in limits}:
        limits.append({"type": name, "soft": value, "hard": value})


def _memory_settings(version: int, limit: int) -> Settings:
    if version == 1:
        swap = ("?memory.memsw.limit_in_bytes", str(limit))  # of memory and swap together
        return (("memory.limit_in_bytes", str(limit)), swap)
    return (("memory.max", str(limit)), ("?memory.swap.max", "0"))


def describe() -> dict[str, str]:
    """How memory and the number of processes would be limited, for people; "" for not at all."""
    found = {"memory": "RLIMIT_DATA, for each process"}
    found["pids"] = "RLIMIT_NPROC, in the bundle's own namespace" if counts_processes() else ""
    for name in found:
        for version, place in _places(name):
            settings = _memory_settings(version, 2**30) if name == "memory" else _PIDS
            if _works((place, settings)):
                found[name] = f"control group (v{version}) {place}"
                break
    return found


def _works(group: Placed) -> bool:
    """Makes the group, moves a process into it, and removes it again."""
    _sweep(Path(group[0]))
    try:
        made = Groups([group], f"eka-{os.getpid()}-probe")
    except OSError:
        return False
    try:
        return _in_child(made.enter)
    finally:
        made.remove()


def _sweep(place: Path) -> None:
    """Removes what launchers left that were killed; a group that is in use cannot be removed."""
    for left in place.glob("eka-*-*"):
        owner = left.name.split("-")[1]
        if owner.isdecimal() and not os.path.exists(f"/proc/{owner}"):
            with contextlib.suppress(OSError):
                left.rmdir()


def counts_processes() -> bool:
    """Whether RLIMIT_NPROC holds here, and counts nobody but the processes of a new namespace."""

    def attempt() -> None:
        enter_user_namespace()
        resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
        first = os.fork()
        if first == 0:
            os.execv("/proc/self/exe", ["python", "-ISE", "-c", "import sys; sys.stdin.read()"])
        try:
            second = os.fork()
        except BlockingIOError:
            return
        finally:
            os.kill(first, 9)
            os.waitpid(first, 0)
        if second == 0:
            os._exit(0)
        os.waitpid(second, 0)
        raise OSError

    return _in_child(attempt)


def _in_child(action: Callable[[], None]) -> bool:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        except OSError:
            status = 2
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _places(controller: str) -> Iterator[tuple[int, str]]:
    """Version and directory of groups below which one with this controller may be made."""
    for number, names, path in _memberships():
        if controller in names:
            place = _directory("cgroup", controller, path)
            if place is not None:
                yield 1, str(place)
        elif number == 0:
            place = _directory("cgroup2", "", path)
            while place is not None and (place / "cgroup.procs").exists():
                enabled = place / "cgroup.subtree_control"
                if enabled.exists() and controller in enabled.read_text().split():
                    yield 2, str(place)
                place = place.parent


def own_groups() -> list[Path]:
    """Those that this process is in, one of each hierarchy that is mounted."""
    places = (
        _directory("cgroup", names[0], path) if number else _directory("cgroup2", "", path)
        for number, names, path in _memberships()
    )
    return [place for place in places if place is not None]


def _memberships() -> Iterator[tuple[int, list[str], str]]:
    """cgroups(7): hierarchy, controllers, path."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, names, path = line.split(":", 2)
        yield int(number), names.split(","), path


def _directory(fstype: str, controller: str, path: str) -> Path | None:
    """Where the group `path` is mounted; proc_pid_mountinfo(5)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, target = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        if kind == fstype and (not controller or controller in options.split(",")):
            below = os.path.relpath(path, root)
            if not below.startswith(".."):
                return Path(os.path.normpath(os.path.join(target, below)))
    return None
