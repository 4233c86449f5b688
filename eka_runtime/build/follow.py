"""Stays with a running build: takes its output, and ends it when it may not go on."""

from __future__ import annotations

import os
import select
import time

from eka_runtime.build.log import BuildLog
from eka_runtime.build.settings import BuildSettings
from eka_runtime.build.spawn import Ended, Running
from eka_runtime.errors import BuildTimeout, LogLimitExceeded
from eka_runtime.nix.path import StorePath

_READ = 1 << 16


def follow(drv: StorePath, running: Running, log: BuildLog, settings: BuildSettings) -> Ended:
    """Returns when the build has ended, with all its output in the log.

    Raises BuildTimeout or LogLimitExceeded, after which the caller is to kill it.
    """
    started = heard = time.monotonic()
    poll = select.poll()
    poll.register(running.output, select.POLLIN)
    while True:
        left = _time_left(drv, settings, started, heard)
        if not poll.poll(None if left is None else left * 1000 + 1):
            continue
        if not (data := os.read(running.output, _READ)):
            break
        heard = time.monotonic()
        log.write(data)
        if settings.max_log_size and log.size > settings.max_log_size:
            raise LogLimitExceeded(
                f"`{drv}` was killed after writing more than {settings.max_log_size} bytes of log",
                hint="`--max-log-size BYTES` allows more, 0 anything",
            )
    # It may have closed its output and gone on.
    while (ended := running.wait(_time_left(drv, settings, started, heard))) is None:
        continue
    return ended


def _time_left(
    drv: StorePath, settings: BuildSettings, started: float, heard: float
) -> float | None:
    """Seconds, None for any; raises BuildTimeout when there are none."""
    now, left = time.monotonic(), []
    for limit, since, silent in (
        (settings.timeout, started, ""),
        (settings.max_silent_time, heard, " of silence"),
    ):
        if limit:
            left.append(since + limit - now)
            if left[-1] <= 0:
                option = "--max-silent-time" if silent else "--timeout"
                raise BuildTimeout(
                    f"building of `{drv}` timed out after {limit:g} seconds{silent}",
                    hint=f"`{option} SECONDS` allows more",
                )
    return min(left) if left else None
