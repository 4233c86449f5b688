"""What a run may see of the host beyond its packages: paths, variables, the network.

Paths are resolved here, before anything is mounted, so that a symbolic link changed later cannot
lead elsewhere. Constraint: asking is explicit. The one exception is the working directory (and the
script itself, read-only), and never when that would hand over the whole home directory.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from eka_runtime.errors import GrantError
from eka_runtime.oci.limits import LimitGrant, parse_limit

Asked = tuple[str, str]
"""A text and who asked for it, such as ("~/data", "header read")."""

DEFAULT_CWD = "default: working directory"
SCRIPT = "the script itself"

RESERVED = ("/bin", "/dev", "/etc", "/nix", "/nix/store", "/proc", "/sys", "/tmp", "/usr/bin")
"""Directories the bundle has of its own; what lies below most of them can be granted."""

_CLOSED = ("/proc", "/nix/store")
_FIXED = ("/bin/sh", "/usr/bin/env", "/dev/pts", "/dev/ptmx", "/dev/console")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?\Z")


class Grant(NamedTuple):
    """`path` is where it appears inside; `source` is the host path, free of symbolic links."""

    path: str
    write: bool
    origin: str
    source: str
    directory: bool
    device: bool = False


class EnvGrant(NamedTuple):
    """`value` None: taken from the caller's environment at each launch, and never written down.

    A name that ends in `*` stands for all that begin so and that the bundle does not set itself.
    """

    name: str
    value: str | None
    origin: str


class Grants(NamedTuple):
    """`paths` has parents before children. `network` is who asked for the host's, `loopback`
    for one of the run's own; None for neither.
    `home` is a mode (private, none) that replaces the profile's; a persistent one is a path.
    `nesting` is who asked for namespaces and mounts of the program's own making.

    `covered` are places inside granted directories that are hidden again. `notes` are sentences
    for people about what was not granted, each with the remedy.
    """

    network: str | None = None
    paths: tuple[Grant, ...] = ()
    env: tuple[EnvGrant, ...] = ()
    notes: tuple[str, ...] = ()
    covered: tuple[str, ...] = ()
    nesting: str | None = None
    limits: tuple[LimitGrant, ...] = ()
    loopback: str | None = None
    home: Asked | None = None


def resolve_grants(
    read: Sequence[Asked],
    write: Sequence[Asked],
    base: Path,
    home: str,
    cwd: str,
    grant_cwd: bool,
    script: Path | None = None,
    env: Sequence[Asked] = (),
    network: str | None = None,
    nesting: str | None = None,
    limits: Sequence[Asked] = (),
    loopback: str | None = None,
    devices: Sequence[Asked] = (),
    device_names: Sequence[str] = (),
    own: Sequence[str] = (),
    hidden: Sequence[str] = (),
) -> Grants:
    """Relative texts start at `base`. Raises GrantError for what does not exist or cannot be given.

    An explicit grant of the working directory or of the script replaces the default one. `own` are
    directories whose files decide what is run outside of bundles: they cannot be granted writable.
    `hidden` directories are covered where a grant would show them.
    """
    start = os.path.join(cwd, base)
    asked = [_resolve(text, origin, False, start, home) for text, origin in read]
    asked += [_resolve(text, origin, True, start, home) for text, origin in write]
    notes = _check_own(asked, own)
    defaults = []
    if grant_cwd:
        objection = _cwd_objection(cwd, home, own)
        if objection is None:
            defaults.append(_resolve(cwd, DEFAULT_CWD, True, "/", home))
        elif not asked:
            # Whoever asks for paths has thought of what the program needs.
            notes.append(objection)
    if script is not None:
        defaults.append(_script(os.path.join(cwd, script), home))
    names = [os.path.join(start, _expand(text, who, home)) for text, who in (*read, *write)]
    asked += [_device(text, origin, device_names) for text, origin in devices]
    paths = _arrange(asked, defaults)
    _check_links(zip(names, asked, strict=False), paths)
    return Grants(
        network=network,
        paths=paths,
        env=_variables(env),
        notes=tuple(notes),
        covered=_covered(paths, hidden),
        nesting=nesting,
        loopback=loopback,
        limits=tuple(parse_limit(text, origin) for text, origin in limits),
    )


def _resolve(text: str, origin: str, write: bool, start: str, home: str) -> Grant:
    named = os.path.join(start, _expand(text, origin, home))
    path = os.path.normpath(named).replace("//", "/", 1)  # POSIX lets normpath keep a leading //
    source = _real(named, text, origin)
    if ".." in named.split("/") and _real(path, text, origin) != source:
        # `link/..` is not where it looks: the kernel goes up from the link's target.
        path = source
    _refuse(path, text, origin)
    try:
        mode = os.stat(source).st_mode
    except OSError as error:
        raise _unusable(path, text, origin, error) from error
    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
        raise GrantError(
            f"`{text}` ({origin}) is a device, not a file",
            hint=f"ask for it with `devices` or `--device {source}`",
        )
    return Grant(path, write, origin, source, stat.S_ISDIR(mode))


def _device(text: str, origin: str, names: Sequence[str]) -> Grant:
    """Only by the names of the profile: most devices are the whole machine."""
    if not any(fnmatchcase(text, name) for name in names) or ".." in text.split("/"):
        known = ", ".join(f"`{name}`" for name in names) or "none in this profile"
        raise GrantError(
            f"the device `{text}` ({origin}) cannot be granted",
            hint=f"those that can: {known}; a profile of your own may name more",
        )
    source = _real(text, text, origin)
    mode = os.stat(source).st_mode
    if not within(source, "/dev") or not (stat.S_ISCHR(mode) or stat.S_ISDIR(mode)):
        raise GrantError(f"`{text}` ({origin}) is not a device of this host")
    return Grant(text, True, origin, source, stat.S_ISDIR(mode), True)


def _expand(text: str, origin: str, home: str) -> str:
    if not text or "\0" in text:
        raise GrantError(f"`{text!r}` ({origin}) is not a path")
    head, slash, rest = text.partition("/")
    if head == "~":
        return f"{home}/{rest}" if slash else home
    if head.startswith("~"):
        raise GrantError(
            f"`{text}` ({origin}): only `~` and `~/…` are expanded",
            hint=f"write the path in full, or `./{text}` for a name that begins with `~`",
        )
    return text


def _real(path: str, text: str, origin: str) -> str:
    try:
        source = os.path.realpath(path, strict=True)
    except OSError as error:
        raise _unusable(path, text, origin, error) from error
    if source == "/" or within(source, "/proc"):
        raise GrantError(
            f"`{text}` ({origin}) cannot be granted: it is `{source}` of the host",
            hint="grant the directories that are needed, further down",
        )
    return source


def _unusable(path: str, text: str, origin: str, error: OSError) -> GrantError:
    # A link into a store that only exists inside bundles is a package, and dangles out here. The
    # error names the first directory that is missing, which may be /nix.
    if isinstance(error, FileNotFoundError) and within(os.path.realpath(path), "/nix/store"):
        hint = "store paths are packages: name it with `packages = […]` or `-p`"
    elif isinstance(error, FileNotFoundError):
        hint = "create it first, or drop the grant"
    else:
        hint = "grant a path that you can read yourself"
    return GrantError(f"cannot grant `{text}` ({origin}): {error.strerror}", hint=hint)


def reserved(path: str) -> str | None:
    """The place of the bundle's own that a mount at `path` would hide or change; None if free."""
    if path == "/":
        return "/"
    for place in _CLOSED:
        if within(path, place):
            return place
    for place in (*RESERVED, *_FIXED):
        if within(place, path):
            return place
    return None


def _refuse(path: str, text: str, origin: str) -> None:
    place = reserved(path)
    if place is not None:
        raise GrantError(
            f"`{text}` ({origin}) cannot be granted: the bundle has its own `{place}`",
            hint="store paths are packages: name it with `packages = […]` or `-p`"
            if place.startswith("/nix")
            else "grant the files or directories that are needed, one by one",
        )


def _check_own(asked: Iterable[Grant], own: Sequence[str]) -> list[str]:
    """Notes about writable parents of eka's own directories; GrantError for those themselves."""
    notes = []
    for grant in asked:
        for place in map(os.path.realpath, own):
            if grant.write and within(grant.source, place):
                raise GrantError(
                    f"`{grant.path}` ({grant.origin}) cannot be granted writable: eka's own files"
                    " are there, and who can change them runs outside of the sandbox",
                    hint="grant another directory, or this one with `read`",
                )
            if grant.write and within(place, grant.source):
                notes.append(
                    f"`{grant.path}` ({grant.origin}) includes eka's own files in `{place}`:"
                    " a program that can write there is not held by the sandbox"
                )
    return notes


def _covered(paths: Iterable[Grant], hidden: Iterable[str]) -> tuple[str, ...]:
    """Where the hidden directories would appear inside."""
    return tuple(
        grant.path + place[len(grant.source) :]
        for place in map(os.path.realpath, hidden)
        for grant in paths
        if grant.directory and within(place, grant.source)
    )


def _cwd_objection(cwd: str, home: str, own: Sequence[str]) -> str | None:
    """Why the working directory is not granted by default; None when it is."""
    eka = [os.path.realpath(place) for place in own]
    here = os.path.realpath(cwd)
    homes = {os.path.normpath(home), os.path.realpath(home)}
    if any(within(place, cwd) for place in homes):
        what = "the home directory" if cwd in homes else "a parent of the home directory"
    elif reserved(cwd) is not None:
        what = "a system directory"
    elif any(within(here, place) or within(place, here) for place in eka):
        what = "where eka keeps its own files"
    else:
        return None
    return (
        f"`{cwd}` is not visible to the program because it is {what}:"
        " change to a project directory, or grant what it needs with `--read` or `--write`"
    )


def _script(place: str, home: str) -> Grant:
    try:
        grant = _resolve(place, SCRIPT, False, "/", home)
    except GrantError as error:
        raise GrantError(str(error), hint="save the script to a regular file") from error
    if grant.directory:
        raise GrantError(f"`{place}` is a directory", hint="name a script or a program file")
    return grant


def _arrange(asked: Iterable[Grant], defaults: Iterable[Grant]) -> tuple[Grant, ...]:
    chosen: dict[str, Grant] = {}
    for grant in asked:
        other = chosen.get(grant.path)
        chosen[grant.path] = _merge(other, grant) if other else grant
    for grant in defaults:
        chosen.setdefault(grant.path, grant)
    placed = [_reachable(grant, chosen) for grant in sorted(chosen.values(), key=_depth_first)]
    merged: dict[str, Grant] = {}
    for grant in placed:
        other = merged.get(grant.path)
        merged[grant.path] = _merge(other, grant) if other else grant
    return tuple(sorted(merged.values(), key=_depth_first))


def _check_links(asked: Iterable[tuple[str, Grant]], paths: Iterable[Grant]) -> None:
    """`asked` are grants and the names by which they were asked for.

    A program must not decide by a symbolic link what its next run is granted.
    """
    writable = [grant for grant in paths if grant.write]
    for name, grant in asked:
        for link in _links(name):
            for other in writable:
                if within(link, other.source) and not within(grant.source, other.source):
                    raise GrantError(
                        f"`{grant.path}` ({grant.origin}) cannot be granted: `{link}` is a symbolic"
                        f" link out of `{other.path}`, which the program may write to",
                        hint=f"grant the place itself, `{grant.source}`",
                    )


def _links(path: str) -> Iterator[str]:
    """Where the symbolic links are that are met on the way to `path`, which exists."""
    here, parts = "/", path.split("/")[::-1]
    while parts:
        part = parts.pop()
        place = os.path.normpath(os.path.join(here, part))
        if part and part != ".." and os.path.islink(place):
            yield place
            target = os.readlink(place)
            here = "/" if target.startswith("/") else here
            parts += target.split("/")[::-1]
        else:
            here = place


def _merge(first: Grant, second: Grant) -> Grant:
    origins = sorted({*first.origin.split(", "), *second.origin.split(", ")})
    return first._replace(write=first.write or second.write, origin=", ".join(origins))


def _reachable(grant: Grant, chosen: dict[str, Grant]) -> Grant:
    """Moves a grant whose name leads through a symbolic link that another grant shows inside.

    The runtime follows that link when it mounts, so the mount has to be where the link leads.
    """
    for other in chosen.values():
        if other.directory and other.path != grant.path and within(grant.path, other.path):
            below = grant.path[len(other.path) :]
            if grant.source != other.source + below:
                _refuse(grant.source, grant.path, grant.origin)
                return grant._replace(path=grant.source)
    return grant


def _variables(asked: Sequence[Asked]) -> tuple[EnvGrant, ...]:
    found: dict[str, EnvGrant] = {}
    for text, origin in asked:
        name, stated, value = text.partition("=")
        if not (_NAME if stated else _PATTERN).match(name):
            raise GrantError(
                f"`{text}` ({origin}) is not a variable",
                hint="write NAME or NAME* to pass variables on, or NAME=VALUE to set one",
            )
        if "\0" in value:
            raise GrantError(f"the value of `{name}` ({origin}) has a null character")
        found[name] = EnvGrant(name, value if stated else None, origin)
    return tuple(sorted(found.values()))


def _depth_first(grant: Grant) -> list[str]:
    return grant.path.split("/")


def within(path: str, place: str) -> bool:
    """Whether `path` is `place` or lies below it."""
    return path == place or path.startswith("/" if place == "/" else place + "/")
