"""Chooses what stands at /bin/sh and /usr/bin/env of a bundle.

The packages' own programs come first; otherwise the configured static shell, by default the
distribution's static busybox, whose `env` works by its name. A dynamic shell is of no use: its
libraries are not in the bundle.

    $XDG_CACHE_HOME/eka/shell/<digest>/busybox    a copy, which bundles take in as a hard link
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from eka.config import Settings, cache_dir
from eka.program import Programs
from eka_runtime.errors import ShellMissing
from eka_runtime.linux.elf import is_static_elf
from eka_runtime.oci.bundle import ShellFiles, ShellSource, host_program

_CANDIDATES = ("busybox", "busybox.static", "busybox-static", "bash-static", "zsh-static")
_PLACES = "/bin:/usr/bin:/usr/local/bin"
_HINT = "install a static busybox (on Debian: `apt-get install busybox-static`), or set `EKA_SHELL`"


class Shell(NamedTuple):
    """`host` is the host's own shell, if any of it is used."""

    files: ShellFiles
    host: str | None


def find_shell(programs: Programs, settings: Settings) -> Shell:
    """Either file may be None, when neither the packages nor the host have one."""
    sh, env = _from_packages(programs, "sh"), _from_packages(programs, "env")
    if sh and env:
        return Shell(ShellFiles(sh, env), None)
    host = _host_shell(settings)
    if host is None:
        return Shell(ShellFiles(sh, env), None)
    source = _cached(host)
    has_env = "busybox" in os.path.basename(os.path.realpath(host))
    return Shell(ShellFiles(sh or source, env or (source if has_env else None)), host)


def static_shell(settings: Settings) -> ShellSource | None:
    """The host's own, for bundles that have no shell from packages; None if it has none."""
    host = _host_shell(settings)
    return _cached(host) if host else None


def require_shell(shell: Shell) -> None:
    """Raises ShellMissing when a program needs /bin/sh and nothing can stand there."""
    if shell.files.sh is None:
        raise ShellMissing("no static shell for /bin/sh was found on this host", hint=_HINT)


def _from_packages(programs: Programs, name: str) -> ShellSource | None:
    found = programs.find(name)
    return ShellSource("store", found) if found else None


def _host_shell(settings: Settings) -> str | None:
    if settings.shell is not None:
        _check(settings.shell, settings.origin.get("shell", "settings"))
        return settings.shell
    path = f"{os.environ.get('PATH', '')}:{_PLACES}"
    for name in _CANDIDATES:
        found = shutil.which(name, path=path)
        if found and is_static_elf(found):
            return os.path.realpath(found)
    return None


def _check(shell: str, origin: str) -> None:
    if not os.access(shell, os.X_OK):
        raise ShellMissing(f"the shell `{shell}` ({origin}) is not an executable file", hint=_HINT)
    if not is_static_elf(shell):
        raise ShellMissing(f"the shell `{shell}` ({origin}) is not statically linked", hint=_HINT)


def _cached(host: str) -> ShellSource:
    """A copy to take hard links of: those of the host's own file are denied to its non-owners."""
    source = host_program(host)
    digest = source.digest.partition("-")[2].translate(str.maketrans("+/", "-_", "="))
    copy = cache_dir(os.environ) / "shell" / digest / os.path.basename(host)
    if not copy.exists():
        try:
            _publish(Path(host), copy)
        except OSError:
            return source  # only slower
    return source._replace(path=os.fspath(copy))


def _publish(source: Path, copy: Path) -> None:
    fresh = copy.with_name(f".{copy.name}.{os.getpid()}")
    copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(source, fresh)
    fresh.chmod(0o755)
    with fresh.open("rb") as file:
        os.fsync(file.fileno())  # once per shell; no bundle looks into it again
    os.rename(fresh, copy)
