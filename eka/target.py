"""What `eka run`, `explain` and `bundle create` may be pointed at.

/nix/store/<base>        its main program, or the path itself when it is a file
/nix/store/<base>/sub    that program
./result                 a link to a store path, like the path
./result/sub             that program, behind the link
NAME, with -p            a program of the packages
DIR, .#attr, URI         what an atom or expression builds: its main program
FILE                     a script or binary, as `eka-run FILE`
"""

from __future__ import annotations

import os
from pathlib import Path

from eka.fetching import Reach
from eka.packages import PackageRef, links_of, names_atom, resolve_package
from eka.script.flags import Flags
from eka.wanted import Program, Wanted, from_file, from_flags
from eka_runtime.errors import UsageError
from eka_runtime.nix.path import STORE_DIR, split


def from_target(target: str, flags: Flags, reach: Reach, arguments: tuple[str, ...] = ()) -> Wanted:
    """Raises UsageError for what is none of these, PathNotFound, InvalidStorePath.

    `arguments` become part of the bundle; those of a start are better added then.
    """
    return _from_target(target, flags, reach)._replace(arguments=arguments)


def _from_target(target: str, flags: Flags, reach: Reach) -> Wanted:
    if target.startswith(STORE_DIR + "/"):
        return _from_store_path(target, flags, reach)
    if behind := _behind_link(target):
        return _from_store_path(behind, flags, reach)
    ref = PackageRef(target, "target", Path.cwd())
    links = links_of(ref)
    if links and os.readlink(links[-1]).startswith(STORE_DIR + "/"):
        return _from_store_path(str(resolve_package(ref)), flags, reach)
    if "/" not in target and flags.packages:
        return from_flags(flags)._replace(program=Program((target,), "target"))
    if names_atom(ref):
        return _from_atom(ref, flags, reach)
    if os.path.lexists(target):
        return from_file(target, flags, reach)[0]
    raise UsageError(
        f"`{target}` is neither a store path nor a file",
        hint=f"for a program of a package: `eka run -p PACKAGE {target}`",
    )


def _behind_link(target: str) -> str | None:
    """The place in the store of `LINK/sub`; the host, which has no such store, knows of none."""
    link, slash, inside = target.rpartition("/")
    while slash and link:
        links = links_of(PackageRef(link, "target", Path.cwd()))
        place = os.readlink(links[-1]) if links else ""
        if place.startswith(STORE_DIR + "/"):
            return f"{place}/{inside}" if inside else place
        link, slash, above = link.rpartition("/")
        inside = f"{above}/{inside}"
    return None


def _from_atom(ref: PackageRef, flags: Flags, reach: Reach) -> Wanted:
    found = reach.install(ref.text, "target", ref.base)
    if found.program is None:
        return _from_store_path(str(found.path), flags, reach)
    return _from_store_path(f"{found.path}/bin/{found.program}", flags, reach)


def _from_store_path(target: str, flags: Flags, reach: Reach) -> Wanted:
    path, inside = split(target)
    info = reach.info(path)
    wanted = from_flags(flags)
    if inside:
        return wanted._replace(roots=(info,), program=Program((target,), "target"))
    return wanted._replace(main=info)
