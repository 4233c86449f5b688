"""The root file system around a closure, where nobody mounts anything: in images and rootfs.

The same few files that a bundle has (`bundles/run.toml`), for a user who is known beforehand
instead of whoever runs it, and the directories that engines mount on. Also what systemd-nspawn
looks for (/usr, os-release).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from eka_runtime.errors import UsageError
from eka_runtime.oci.bundle import ShellFiles
from eka_runtime.oci.environment import expand
from eka_runtime.oci.profile import Profile
from eka_runtime.oci.rootfs import Rootfs, RootfsEntry

_OS_RELEASE = 'ID=eka\nNAME="eka"\nPRETTY_NAME="a closure of store paths, made by eka"\n'
_PLACES = ("/bin", "/dev", "/etc", "/nix/store", "/proc", "/sys", "/usr/bin")
_MAX_ID = 2**32 - 2


class RootUser(NamedTuple):
    """Numeric ids; the name and home that /etc/passwd is to have for them."""

    uid: int
    gid: int

    @classmethod
    def parse(cls, text: str) -> RootUser:
        """Of `UID[:GID]`; the group is the user's number if it is not given. Raises UsageError."""
        match = re.fullmatch(r"([0-9]{1,10})(?::([0-9]{1,10}))?", text)
        ids = [int(part) for part in match.groups(match[1])] if match else []
        if not ids or max(ids) > _MAX_ID:
            raise UsageError(f"`{text}` is not a user", hint="give numbers, as in `1000:1000`")
        return cls(*ids)

    @property
    def name(self) -> str:
        return "user" if self.uid else "root"

    @property
    def home(self) -> str:
        # /tmp is the one place that is sure to be writable for somebody who is not root.
        return "/tmp" if self.uid else "/root"


def image_rootfs(profile: Profile, shell: ShellFiles, user: RootUser) -> tuple[RootfsEntry, ...]:
    """Raises SpecError when a profile's file is in the way of a shell."""
    rootfs = Rootfs()
    for place in _PLACES:
        rootfs.directory(place)
    rootfs.directory("/tmp", 0o1777)
    rootfs.directory("/root", 0o700)
    values = {
        "gid": str(user.gid),
        "group": "user" if user.gid else "root",
        "home": user.home,
        "hostname": profile.hostname or "localhost",
        "uid": str(user.uid),
        "user": user.name,
    }
    for file in profile.files:
        rootfs.file(file.name, _first_of_each(expand(file.text, values)))
    rootfs.file("/etc/os-release", _OS_RELEASE)
    for place, source in (("/bin/sh", shell.sh), ("/usr/bin/env", shell.env)):
        if source is None:
            continue
        if source.kind == "store":
            rootfs.symlink(place, source.path)
        elif place != "/bin/sh" and source == shell.sh:
            # A busybox is what its name says, and needs to be there once.
            rootfs.symlink(place, "/bin/sh")
        else:
            rootfs.host_file(place, source.path, source.digest)
    return rootfs.entries()


def _first_of_each(text: str) -> str:
    lines: dict[str, str] = {}
    for line in text.splitlines(keepends=True):
        lines.setdefault(line.partition(":")[0] if ":" in line else line, line)
    return "".join(lines.values())
