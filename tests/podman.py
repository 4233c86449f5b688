"""podman as tests use it: storage of its own, and settings that work where defaults do not.

Some machines deny what podman's defaults ask for: virtual machines whose root may not raise limits,
hosts with both versions of control groups, where crun does not start a container and runc does. So
limits are those this process has, and the runtime is the first that starts one. Networks are never
set up. What does not work in any way skips, with podman's own words.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.requirements import lacking, require
from tests.users import User

TIMEOUT = 110
_MANY = 20_000


class Podman(NamedTuple):
    """Of one user, below a directory of his; `runtime` is crun or runc."""

    user: User
    place: Path
    runtime: str

    def __call__(self, *words: str | Path, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return self.user.run(self.command(*words), env=self.environment(), timeout=TIMEOUT, **more)

    def start(self, *words: str | Path, **more: Any) -> subprocess.CompletedProcess[bytes]:
        """`podman run` without a network."""
        return self("run", "--rm", "--network=none", *words, **more)

    def command(self, *words: str | Path) -> list[str]:
        place = os.fspath(self.place)
        head = [require("podman"), f"--root={place}/storage", f"--runroot={place}/run"]
        return [*head, f"--runtime={require(self.runtime)}", *map(os.fspath, words)]

    def environment(self) -> dict[str, str]:
        return {
            "CONTAINERS_CONF": os.fspath(self.place / "containers.conf"),
            "XDG_RUNTIME_DIR": os.fspath(self.place / "runtime"),
            "HOME": os.fspath(self.place / "home"),
            "TMPDIR": os.fspath(self.place / "tmp"),
        }


@contextmanager
def podman_of(user: User) -> Iterator[Podman]:
    """Skips where no runtime starts a container for this user."""
    require("podman")
    # Not in /tmp, which may be a tmpfs: there overlays of podman's have other rules.
    place = Path(tempfile.mkdtemp(prefix="eka-podman-", dir="/var/tmp"))
    try:
        place.chmod(0o755)
        for name in ("home", "runtime", "tmp", "probe", "probe/bin"):
            (place / name).mkdir(mode=0o700)
        (place / "containers.conf").write_text(_settings())
        shutil.copy(require("busybox"), place / "probe" / "bin" / "true")
        subprocess.run(["chown", "-R", f"{user.uid}:{user.gid}", place], check=True)
        yield _working(user, place)
    finally:
        _clean(user, place)


def _working(user: User, place: Path) -> Podman:
    said = ""
    for runtime in ("crun", "runc"):
        if shutil.which(runtime, path=f"{os.environ['PATH']}:/usr/sbin"):
            made = Podman(user, place, runtime)
            done = made.start("--rootfs", place / "probe", "/bin/true")
            if done.returncode == 0:
                return made
            said += done.stderr.decode(errors="replace")
    lacking(f"podman does not work for {user.name} here: {said.strip()}")


def _settings() -> str:
    limits = {
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
        "nproc": resource.getrlimit(resource.RLIMIT_NPROC),
    }
    texts = ", ".join(
        f'"{name}={_limit(hard)}:{_limit(hard)}"' for name, (_, hard) in limits.items()
    )
    engine = 'cgroup_manager = "cgroupfs"\nevents_logger = "file"'
    return f"[containers]\ndefault_ulimits = [{texts}]\n[engine]\n{engine}\n"


def _limit(value: int) -> int:
    # "Unlimited" would be a raise for some.
    return _MANY if value == resource.RLIM_INFINITY else min(value, _MANY)


def _clean(user: User, place: Path) -> None:
    """Files of subordinate users can be removed only by podman, unless we are root."""
    if user.uid != 0:
        made = Podman(user, place, "crun")
        words = [require("podman"), "unshare", "rm", "-rf", place / "storage", place / "run"]
        user.run(words, env=made.environment(), timeout=TIMEOUT)
    # Rootless podman keeps its namespaces by a process that waits for ever.
    for file in place.glob("runtime/libpod/tmp/pause.pid"):
        with suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
    for mount in _mounts_below(place):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)
    shutil.rmtree(place, ignore_errors=True)


def _mounts_below(place: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    found = [line.split()[1] for line in lines]
    return [mount for mount in reversed(found) if mount.startswith(f"{place}/")]
