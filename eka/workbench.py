"""What a daemon of this tool builds with: found out when its first client wants something built."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from eka.context import Context

if TYPE_CHECKING:
    from eka_runtime.build.workbench import Workbench


def workbench(context: Context) -> Callable[[], Workbench]:
    """Raises what probing the host raises, when it is called."""

    @cache
    def found() -> Workbench:
        from eka.launching import find_host
        from eka.realising import default_settings
        from eka_runtime.build.workbench import Workbench
        from eka_runtime.runtime.launch import default_state_directory

        settings = context.settings()
        builds = default_settings(settings, os.environ, offline=context.offline)
        return Workbench(find_host(settings), builds, default_state_directory(os.environ))

    return found
