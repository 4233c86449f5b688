"""What a daemon in a test builds with: the host's runtime, and a static shell of the host."""

from __future__ import annotations

import os
from functools import cache

from eka_runtime.build.settings import BuildSettings, own_features, own_systems
from eka_runtime.build.workbench import Workbench
from eka_runtime.errors import HostError
from eka_runtime.oci.bundle import host_program
from eka_runtime.runtime.launch import default_state_directory
from eka_runtime.runtime.probe import probe
from tests.requirements import lacking, require

_TIMEOUT = 60.0


@cache
def workbench() -> Workbench:
    """Skips where the host starts no bundles."""
    shell = host_program(os.path.realpath(require("busybox")))
    settings = BuildSettings(
        shell, timeout=_TIMEOUT, systems=own_systems(), features=own_features(), offline=True
    )
    try:
        host = probe()
    except HostError as error:
        lacking(str(error))
    return Workbench(host, settings, default_state_directory(os.environ))
