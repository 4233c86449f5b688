"""What a server needs to build for its clients: found out once, and shared by all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from eka_runtime.build.settings import BuildSettings, job_count
from eka_runtime.runtime.host import Host

_TRUE = ("true", "1")


class Workbench(NamedTuple):
    host: Host
    settings: BuildSettings
    state: Path

    def asked(self, options: Mapping[str, int], overrides: Mapping[str, str]) -> Workbench:
        """With what a Nix client has set: numbers of `SetOptions`, and settings by name.

        What does not concern builds, or makes no sense, is ignored.
        """
        own = self.settings
        jobs = options.get("maxBuildJobs", 0)
        settings = own._replace(
            max_jobs=min(jobs, 4 * job_count()) if jobs else own.max_jobs,
            cores=options.get("buildCores", own.cores),
            keep_failed=bool(options.get("keepFailed", own.keep_failed)),
            keep_going=bool(options.get("keepGoing", own.keep_going)),
            max_silent_time=options.get("maxSilentTime", own.max_silent_time),
            timeout=_number(overrides, "timeout", own.timeout),
            max_log_size=_number(overrides, "max-log-size", 0) or own.max_log_size,
        )
        if overrides.get("keep-going") in _TRUE:
            settings = settings._replace(keep_going=True)
        return self._replace(settings=settings)


def _number(overrides: Mapping[str, str], name: str, default: float) -> int:
    text = overrides.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 12 else int(default)
