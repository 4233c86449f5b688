"""The mounts of a bundle, in order, each with who asked for it.

Base mounts of the profile, the private home, the store view, files for the network, grants. Options
are those that crun since 1.8 and runc since 1.1 both understand:

* trees: `rbind` with `rro`, `rnosuid`, `rnodev`. The recursive forms reach mounts below the source
  (plain `ro` leaves those writable), and crun 1.8 as root drops plain `nosuid` on writable binds.
* files: plain `bind` with `ro`: crun 1.8 refuses recursive options on what is no directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from eka_runtime.oci.explain import Reason, describe_mount
from eka_runtime.oci.grants import Grant, Grants, reserved, within
from eka_runtime.oci.profile import Profile
from eka_runtime.oci.spec import Mount

if TYPE_CHECKING:
    from eka_runtime.view.plan import ViewPlan

READ_ONLY_TREE: tuple[str, ...] = ("rbind", "rro", "rnosuid", "rnodev")
READ_WRITE_TREE: tuple[str, ...] = ("rbind", "rnosuid", "rnodev")
READ_ONLY_FILE: tuple[str, ...] = ("bind", "ro", "nosuid", "nodev")
READ_WRITE_FILE: tuple[str, ...] = ("bind", "nosuid", "nodev")


class PlannedMount(NamedTuple):
    """`mode` is the mount point's: runc gives it to a tmpfs there, whatever `mode=` says."""

    mount: Mount
    directory: bool
    reason: Reason
    mode: int | None = None

    @property
    def destination(self) -> str:
        return self.mount.destination


def home_mode(profile: Profile, grants: Grants) -> tuple[str, str]:
    """private or none, and who said so."""
    return grants.home or (profile.home, profile.origin("home"))


def inner_home(mode: str, home: str) -> str:
    """The home directory inside: the caller's own path, unless that place is not free."""
    if mode == "none":
        return "/"
    usable = home.startswith("/") and os.path.normpath(home) == home
    return home if usable and reserved(home) is None else "/tmp"


def plan_mounts(
    profile: Profile,
    view: ViewPlan,
    grants: Grants,
    home: str,
    host_files: Iterable[str],
    packages: Mapping[str, str],
    shares_network: str | None,
    scratch: Iterable[Grant] = (),
) -> list[PlannedMount]:
    """`packages` says who asked for a store path; `shares_network` who asked for the network.

    `scratch` are mounted below the view.
    """
    present = frozenset(host_files)
    granted = {grant.path for grant in grants.paths}
    planned = [*_base_mounts(profile, present, granted), *_home(profile, home, grants)]
    planned += [_grant(grant) for grant in scratch]
    planned += _view_mounts(view, packages)
    if grants.nesting is not None:
        planned.append(_no_control_groups(grants.nesting))
    if shares_network is not None:
        planned += _network_files(profile, present, grants, shares_network)
    parents_first = sorted(grants.paths, key=lambda grant: grant.path.split("/"))
    planned += [_grant(grant) for grant in parents_first]
    return planned + [_cover(place) for place in grants.covered]


def _base_mounts(
    profile: Profile, present: frozenset[str], granted: set[str]
) -> list[PlannedMount]:
    planned = []
    for mount in profile.mounts:
        if mount.destination in granted or (mount.optional and mount.source not in present):
            continue
        made = Mount(
            destination=mount.destination,
            type=mount.type,
            source=mount.source,
            options=mount.options,
        )
        detail = f"{describe_mount(made)}: {mount.why}"
        reason = Reason("mount", mount.destination, mount.origin, detail)
        planned.append(PlannedMount(made, mount.directory, reason, _mode(mount.options)))
    return planned


def _home(profile: Profile, home: str, grants: Grants) -> list[PlannedMount]:
    shown = any(grant.directory and within(home, grant.path) for grant in grants.paths)
    mode, origin = home_mode(profile, grants)
    if mode == "none" or home == "/tmp" or shown:
        return []
    mount = Mount(
        destination=home,
        type="tmpfs",
        source="tmpfs",
        options=("nosuid", "nodev", "mode=0700"),
    )
    detail = "an empty home of its own; yours is visible where it is granted"
    reason = Reason("mount", home, origin, detail)
    return [PlannedMount(mount, True, reason, 0o700)]


def _no_control_groups(origin: str) -> PlannedMount:
    """crun looks there for the kind of the tree, and starts nothing where there is not even a
    directory; an empty tmpfs is one of version 1 without controllers."""
    options = ("ro", "nosuid", "nodev", "noexec", "mode=0555", "size=4k")
    mount = Mount(destination="/sys/fs/cgroup", type="tmpfs", source="tmpfs", options=options)
    detail = "empty: there are no control groups for containers of its own"
    return PlannedMount(mount, True, Reason("mount", mount.destination, origin, detail))


def _view_mounts(view: ViewPlan, packages: Mapping[str, str]) -> list[PlannedMount]:
    planned = []
    for one in sorted(view.mounts, key=lambda item: item.destination):
        source, destination, directory, data = one
        mount = _bind(source, destination, READ_ONLY_TREE if directory else READ_ONLY_FILE)
        if data:
            mount = _overlay(source, data, destination)
        origin = packages.get(destination, "closure")
        reason = Reason("mount", destination, origin, f"read-only, {source}")
        planned.append(PlannedMount(mount, directory, reason))
    return planned


def _network_files(
    profile: Profile, present: frozenset[str], grants: Grants, origin: str
) -> list[PlannedMount]:
    planned = []
    for file in profile.network_files:
        source = next((path for path in file.candidates if path in present), None)
        if source is None or any(within(file.destination, grant.path) for grant in grants.paths):
            continue
        mount = _bind(source, file.destination, READ_ONLY_FILE)
        reason = Reason("mount", file.destination, origin, f"{describe_mount(mount)}: network")
        planned.append(PlannedMount(mount, False, reason))
    return planned


def _grant(grant: Grant) -> PlannedMount:
    if grant.directory:
        options = READ_WRITE_TREE if grant.write else READ_ONLY_TREE
    else:
        options = READ_WRITE_FILE if grant.write else READ_ONLY_FILE
    if grant.device:
        # Granting a device without letting it be one would be no grant.
        options = tuple(option for option in options if option not in ("nodev", "rnodev"))
    mount = _bind(grant.source, grant.path, options)
    reason = Reason("mount", grant.path, grant.origin, describe_mount(mount))
    return PlannedMount(mount, grant.directory, reason)


def _cover(place: str) -> PlannedMount:
    options = ("ro", "nosuid", "nodev", "noexec", "mode=0555", "size=4k")
    mount = Mount(destination=place, type="tmpfs", source="tmpfs", options=options)
    reason = Reason("mount", place, "default", "empty: what is there is not for programs to see")
    return PlannedMount(mount, True, reason, 0o555)


def _overlay(source: str, data: str, destination: str) -> Mount:
    """Read-only; `userxattr` is what lets it be made without privileges."""
    options = ("ro", "nosuid", "nodev", "userxattr", f"lowerdir={source}::{data}")
    return Mount(destination=destination, type="overlay", source="overlay", options=options)


def _bind(source: str, destination: str, options: tuple[str, ...]) -> Mount:
    return Mount(destination=destination, type="bind", source=source, options=options)


def _mode(options: tuple[str, ...]) -> int | None:
    for option in options:
        key, _, value = option.partition("=")
        if key == "mode" and value.isdecimal():
            return int(value, 8)
    return None
