"""Rules for a config.json beyond its schema: what crun or runc would refuse, or silently misread.

Each rule is one generator of problems; `check` runs all of them and stops at none.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from eka_runtime.oci.spec import Capabilities, Hooks, Mount, Process, Spec
from eka_runtime.oci.spec_base import Problem
from eka_runtime.oci.spec_linux import IDMapping, Linux

_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:[-+][0-9A-Za-z.+-]+)?\Z")
_CONTRADICTIONS = (("ro", "rw"), ("ro", "rrw"), ("rro", "rw"), ("rro", "rrw"), ("bind", "rbind"))


def check(spec: Spec, bundle: Path | None = None) -> list[Problem]:
    """Empty when the spec can be run. With its directory, the rootfs must be there, too."""
    return [problem for rule in _RULES for problem in rule(spec)] + list(_root_exists(spec, bundle))


def _version(spec: Spec) -> Iterator[Problem]:
    if not _VERSION.match(spec.ociVersion):
        yield Problem(".ociVersion", "must be a version such as 1.0.2")


def _root(spec: Spec) -> Iterator[Problem]:
    if spec.root is None:
        yield Problem(".root", "required to start a container on Linux")
    elif not spec.root.path:
        yield Problem(".root.path", "must not be empty")


def _root_exists(spec: Spec, bundle: Path | None) -> Iterator[Problem]:
    if bundle is not None and spec.root is not None and spec.root.path:
        place = bundle / spec.root.path
        if not place.is_dir():
            yield Problem(".root.path", f"there is no directory `{place}`")


def _process(spec: Spec) -> Iterator[Problem]:
    process = spec.process
    if process is None:
        yield Problem(".process", "required to start a container")
        return
    if not process.args:
        yield Problem(".process.args", "must name a program")
    elif not process.args[0]:
        yield Problem(".process.args[0]", "must not be empty")
    yield from _absolute(".process.cwd", process.cwd)
    yield from _nulls(".process.args", process.args or ())
    yield from _environment(process)
    yield from _limits(process)
    yield from _capabilities(process)


def _environment(process: Process) -> Iterator[Problem]:
    names = []
    for number, text in enumerate(process.env or ()):
        name, equals, _ = text.partition("=")
        if not equals or not name:
            yield Problem(f".process.env[{number}]", "must be NAME=VALUE")
        names.append(name)
    yield from _nulls(".process.env", process.env or ())
    yield from _twice(".process.env", names)


def _limits(process: Process) -> Iterator[Problem]:
    limits = process.rlimits or ()
    for number, limit in enumerate(limits):
        if limit.soft > limit.hard:
            yield Problem(f".process.rlimits[{number}].soft", "must not exceed hard")
    yield from _twice(".process.rlimits", [limit.type for limit in limits])


def _capabilities(process: Process) -> Iterator[Problem]:
    sets = process.capabilities
    if sets is None:
        return
    for key in Capabilities.field_names:
        names: tuple[str, ...] | None = getattr(sets, key)
        for number, name in enumerate(names or ()):
            if not name.startswith("CAP_"):
                yield Problem(f".process.capabilities.{key}[{number}]", "must begin with CAP_")
    permitted = set(sets.permitted or ())
    # capabilities(7): the kernel refuses effective and ambient ones that are not permitted.
    for key, needed in (("ambient", sets.ambient), ("effective", sets.effective)):
        if lacking := sorted(set(needed or ()) - permitted):
            yield Problem(f".process.capabilities.{key}", f"{lacking[0]} is not permitted")


def _mounts(spec: Spec) -> Iterator[Problem]:
    mounts = spec.mounts or ()
    for number, mount in enumerate(mounts):
        place = f".mounts[{number}]"
        yield from _absolute(f"{place}.destination", mount.destination)
        yield from _nulls(place, (mount.destination, mount.source or "", *(mount.options or ())))
        yield from _mount_options(place, mount)
    destinations = [posixpath.normpath(mount.destination) for mount in mounts]
    yield from _twice(".mounts", destinations, ".destination")


def _mount_options(place: str, mount: Mount) -> Iterator[Problem]:
    options = set(mount.options or ())
    bind = bool({"bind", "rbind"} & options)
    if bind and not mount.source:
        yield Problem(f"{place}.source", "a bind needs a source")
    if not bind and mount.type is None:
        yield Problem(f"{place}.type", "required, unless the options have bind or rbind")
    if mount.type == "bind" and not bind:
        yield Problem(f"{place}.options", "a bind needs `bind` or `rbind`")
    for first, second in _CONTRADICTIONS:
        if {first, second} <= options:
            yield Problem(f"{place}.options", f"`{first}` contradicts `{second}`")


def _terminal(spec: Spec) -> Iterator[Problem]:
    wanted = spec.process is not None and spec.process.terminal
    kinds = {posixpath.normpath(mount.destination): mount for mount in spec.mounts or ()}
    if wanted and not {"/dev/pts", "/dev"} & {
        place for place, mount in kinds.items() if mount.type != "tmpfs"
    }:
        yield Problem(".process.terminal", "needs a devpts mount at /dev/pts")


def _linux(spec: Spec) -> Iterator[Problem]:
    linux = spec.linux
    if linux is None:
        return
    kinds = [namespace.type for namespace in linux.namespaces or ()]
    yield from _twice(".linux.namespaces", kinds, ".type")
    for number, namespace in enumerate(linux.namespaces or ()):
        if namespace.path is not None:
            yield from _absolute(f".linux.namespaces[{number}].path", namespace.path)
    if spec.hostname is not None and "uts" not in kinds:
        yield Problem(".hostname", "needs a uts namespace")
    yield from _mappings(linux, kinds)
    for key, paths in (("maskedPaths", linux.maskedPaths), ("readonlyPaths", linux.readonlyPaths)):
        for number, path in enumerate(paths or ()):
            yield from _absolute(f".linux.{key}[{number}]", path)
    for number, device in enumerate(linux.devices or ()):
        yield from _absolute(f".linux.devices[{number}].path", device.path)
        if device.type != "p" and (device.major is None or device.minor is None):
            yield Problem(f".linux.devices[{number}]", "needs major and minor")


def _mappings(linux: Linux, kinds: Iterable[str]) -> Iterator[Problem]:
    new_user = any(one.type == "user" and one.path is None for one in linux.namespaces or ())
    for key, mappings in (("uidMappings", linux.uidMappings), ("gidMappings", linux.gidMappings)):
        if mappings and "user" not in kinds:
            yield Problem(f".linux.{key}", "needs a user namespace")
        elif new_user and not mappings:
            yield Problem(f".linux.{key}", "required for a new user namespace")
        yield from _overlaps(f".linux.{key}", mappings or ())


def _overlaps(place: str, mappings: Iterable[IDMapping]) -> Iterator[Problem]:
    end = -1
    for mapping in sorted(mappings, key=lambda one: one.containerID):
        if mapping.containerID < end:
            yield Problem(place, f"id {mapping.containerID} is mapped twice")
        end = mapping.containerID + mapping.size


def _hooks(spec: Spec) -> Iterator[Problem]:
    for key in Hooks.field_names if spec.hooks else ():
        for number, hook in enumerate(getattr(spec.hooks, key) or ()):
            yield from _absolute(f".hooks.{key}[{number}].path", hook.path)


def _absolute(place: str, path: str) -> Iterator[Problem]:
    if not path.startswith("/"):
        yield Problem(place, f"must be an absolute path: {path}")
    elif ".." in path.split("/"):
        yield Problem(place, f"must not have `..`: {path}")


def _nulls(place: str, texts: Iterable[str]) -> Iterator[Problem]:
    if any("\0" in text for text in texts):
        yield Problem(place, "must not have a null character")


def _twice(place: str, names: Iterable[str], key: str = "") -> Iterator[Problem]:
    seen: set[str] = set()
    for number, name in enumerate(names):
        if name in seen:
            yield Problem(f"{place}[{number}]{key}", f"`{name}` occurs twice")
        seen.add(name)


_RULES: tuple[Callable[[Spec], Iterator[Problem]], ...] = (
    _version,
    _root,
    _process,
    _mounts,
    _terminal,
    _linux,
    _hooks,
)
