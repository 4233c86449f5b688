"""Every way in which a store can be seen, for tests that want the same from all of them.

A `Shown` is a directory with the store paths in it, and the words before a command that sees it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eka_runtime.runtime.probe import overlay_obstacle
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.bind import BindView
from eka_runtime.view.fuse import FuseView
from eka_runtime.view.overlay import OverlayView
from tests.requirements import lacking

INSIDE = """\
import os, sys
from eka_runtime.linux.syscalls import CLONE_NEWNS
from eka_runtime.linux.userns import enter_user_namespace
from eka_runtime.runtime.enter import binding
from eka_runtime.runtime.serving import serve
from eka_runtime.runtime.view_server import server_words
enter_user_namespace(CLONE_NEWNS)
server = serve((sys.argv[1], *server_words(sys.argv[1])), binding())
os.environ["SERVER"] = str(server)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Starts a command that sees a fuse view, exactly as launchers do; $SERVER is the server's pid."""

OVERLAID = """\
import os, sys
from pathlib import Path
from eka_runtime.linux.mounts import mount_data_overlay
from eka_runtime.linux.syscalls import CLONE_NEWNS
from eka_runtime.linux.userns import enter_user_namespace
enter_user_namespace(CLONE_NEWNS)
mount_data_overlay(*map(Path, sys.argv[1:4]))
os.execvp(sys.argv[4], sys.argv[4:])
"""
"""Starts a command that sees an overlay: where, over which tree, with which data."""


class Shown(NamedTuple):
    place: Path
    words: tuple[str, ...] = ()

    def command(self, *words: str | os.PathLike[str]) -> list[str]:
        return [*self.words, *map(os.fspath, words)]

    def run(
        self, *words: str | os.PathLike[str], **more: Any
    ) -> subprocess.CompletedProcess[bytes]:
        more = {"capture_output": True, "timeout": 100, "cwd": "/"} | more
        return subprocess.run(self.command(*words), check=False, **more)

    def python(self, code: str, *words: str | os.PathLike[str]) -> bytes:
        """stdout of a program that must end well."""
        done = self.run(sys.executable, "-c", code, *words)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


def show_bind(store: Store, infos: Sequence[PathInfo], place: Path) -> Shown:
    BindView(store).plan(infos)
    return Shown(store.layout.bind_view)


def show_fuse(store: Store, infos: Sequence[PathInfo], place: Path) -> Shown:
    need_fuse()
    [mount] = FuseView(store).plan(infos).mounts
    return Shown(Path(mount.source), (sys.executable, "-c", INSIDE, mount.source))


def show_overlay(store: Store, infos: Sequence[PathInfo], place: Path) -> Shown:
    if problem := overlay_obstacle():
        lacking(f"no data-only overlays: {problem}")
    [mount] = OverlayView(store).plan(infos).mounts
    place.mkdir(exist_ok=True)
    words = (os.fspath(place), mount.source, mount.data)
    return Shown(place, (sys.executable, "-c", OVERLAID, *words))


def show_mount(store: Store, infos: Sequence[PathInfo], place: Path) -> Shown:
    need_fuse()
    place.mkdir()
    eka = (sys.executable, "-m", "eka", "store", "--store", os.fspath(store.root))
    return Shown(place, (*eka, "mount", os.fspath(place), "--"))


Show = Callable[[Store, Sequence[PathInfo], Path], Shown]

VIEWS: dict[str, Show] = {
    "bind": show_bind,
    "overlay": show_overlay,
    "fuse": show_fuse,
    "mount": show_mount,
}


def need_fuse() -> None:
    """Skips where nobody can mount FUSE in a namespace of his own."""
    code = (
        "import os, sys\n"
        "from eka_runtime.linux.fuse_mount import mount_device, open_device\n"
        "from eka_runtime.linux.syscalls import CLONE_NEWNS\n"
        "from eka_runtime.linux.userns import enter_user_namespace\n"
        "enter_user_namespace(CLONE_NEWNS)\n"
        "mount_device(open_device(), '/mnt')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    if done.returncode != 0:
        lacking(f"no FUSE in a user namespace: {done.stderr.decode().splitlines()[-1]}")
