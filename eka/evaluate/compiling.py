"""Compiles the bundle of an evaluation, profile `eval`, and records how it is started.

Apart from `starting.py`, because what this imports takes longer than most evaluations.
"""

from __future__ import annotations

import os
from pathlib import Path

from eka import warm
from eka.config import Settings, config_dir
from eka.evaluate.starting import FORMAT, REQUEST, SOCKET, Shown, Start, Wanted
from eka.launching import BOOT_ID, HYBRID_CONTROLLERS, Ready, find_host, root_inside
from eka.prepare import Prepared, current_caller
from eka.record import Dependencies, write_start_record
from eka_runtime.oci.bundle import Bundle, BundleRequest, Process, ShellFiles, compile_bundle
from eka_runtime.oci.grants import Grant, Grants
from eka_runtime.oci.profile import load_profile
from eka_runtime.oci.profile_read import builtin_files
from eka_runtime.runtime.host import Host
from eka_runtime.store.store import Store
from eka_runtime.view.plan import ViewPlan
from eka_runtime.view.session import STRATEGY

PROFILE = "eval"


def compiled(wanted: Wanted, store: Store, settings: Settings, record: Path) -> Start:
    """Raises what probing the host and writing the bundle raise."""
    host = find_host(settings)
    grants = Grants(paths=tuple(map(_grant, wanted.shown)), covered=wanted.covered)
    bundle = _bundle(wanted, grants, host)
    # What a session has of its own is another file each time, so it cannot be pinned as grants are.
    lasting = tuple(grant for grant in grants.paths if grant.source not in (SOCKET, REQUEST))
    pinned = grants._replace(paths=lasting)
    prepared = Prepared(bundle, wanted.closure, pinned, (), (), (), False, "evaluation")
    ready = Ready(prepared, settings._replace(record=False), host, store)
    launch = ready.launch
    launch["plan"]["terminal"] = False
    # An answer that took more than one try is asked for again, so that what was lifted is noticed.
    if not host.refused:
        write_start_record(record, FORMAT, _depends(ready, launch), launch)
    return Start(launch["plan"], launch["args"], launch["env"])


def _grant(shown: Shown) -> Grant:
    return Grant(shown.inner, False, shown.origin, shown.source, shown.directory)


def _bundle(wanted: Wanted, grants: Grants, host: Host) -> Bundle:
    caller = current_caller()._replace(user="eka", group="eka", home="/homeless-shelter")
    return compile_bundle(
        BundleRequest(
            profile=load_profile(PROFILE),
            view=ViewPlan(STRATEGY, wanted.mounts, ()),
            closure=wanted.closure,
            process=Process(wanted.command.words, wanted.command.env, "/", False, 0o022),
            grants=grants,
            caller=caller,
            shell=ShellFiles(None, None),
            annotations=dict(wanted.annotations),
            root_inside=root_inside(host),
        )
    )


def _depends(ready: Ready, launch: warm.Record) -> Dependencies:
    """Where everything lies is part of the record's key."""
    files: list[str | os.PathLike[str]] = [
        *builtin_files(),
        ready.host.runtime,
        config_dir(os.environ) / "eka.toml",
        ready.settings.store / "format",
    ]
    contents = (BOOT_ID, HYBRID_CONTROLLERS)
    limited = (b"/proc/self/cgroup",) if ready.limited() else ()
    present = (launch["bundle"] + b"/rootfs", os.fsencode(launch["plan"]["state"]))
    stamped = tuple(os.fsencode(file) for file in files)
    return Dependencies(stamped, (*contents, *limited), (), (), present)
