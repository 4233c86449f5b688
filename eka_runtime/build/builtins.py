"""The builders that are part of Nix: `builtin:fetchurl` and `builtin:buildenv`.

They are our own code, on data that is checked; no program of anybody's runs, and so there is no
bundle. What they make goes through everything that other outputs go through.
"""

from __future__ import annotations

from pathlib import Path

from eka_runtime.build.settings import BuildSettings
from eka_runtime.build.task import Task
from eka_runtime.errors import BuildRefused
from eka_runtime.store.store import Store


def run_builtin(store: Store, task: Task, directory: Path, settings: BuildSettings) -> None:
    """Makes the outputs of a task in `directory`, by the last parts of their paths.

    Raises BuildRefused for an unknown builder, and BuildError.
    """
    name = task.drv.builder.partition(":")[2]
    if name == "fetchurl":
        from eka_runtime.build.fetchurl import fetch

        fetch(store, task, directory, offline=settings.offline)
    elif name == "buildenv":
        from eka_runtime.build.buildenv import build_environment

        build_environment(store, task, directory)
    else:
        raise BuildRefused(f"`{task.path}` has the unknown builder `{task.drv.builder}`")
