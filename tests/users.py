"""The users that tests run as: whoever runs them and, when that is root, two more.

`eka-sub` has subordinate ids and `eka-nosub` has none: most people who run eka are one of these.
Root creates them when they are missing; a mere user tests as himself.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.requirements import lacking, require

SUB, NOSUB = "eka-sub", "eka-nosub"


class User(NamedTuple):
    """`label` is root, sub, nosub or self."""

    label: str
    name: str
    uid: int
    gid: int
    home: Path

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        **more: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """As subprocess.run with captured output, in a clean environment of this user's."""
        more = {"stdin": subprocess.DEVNULL, "capture_output": True, "check": False} | more
        return subprocess.run(argv, env=self.environment(env), **self.identity(), **more)

    def popen(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        **more: Any,
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, env=self.environment(env), **self.identity(), **more)

    def environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        clean = {"HOME": os.fspath(self.home), "PATH": os.environ.get("PATH", os.defpath)}
        return {**clean, "USER": self.name, **(more or {})}

    def identity(self) -> dict[str, Any]:
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def labels() -> tuple[str, ...]:
    return ("root", "sub", "nosub") if os.geteuid() == 0 else ("self",)


def get_user(label: str) -> User:
    """Creates it when root lacks it."""
    names = {"sub": SUB, "nosub": NOSUB}
    if label in names:
        _ensure(names[label], subordinate=label == "sub")
        return _user(label, pwd.getpwnam(names[label]))
    return _user(label, pwd.getpwuid(os.geteuid()))


def _user(label: str, entry: pwd.struct_passwd) -> User:
    return User(label, entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def _ensure(name: str, *, subordinate: bool) -> None:
    # Test workers may come here at once, and useradd does not wait for another.
    with open("/tmp/.eka-test-users", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            pwd.getpwnam(name)
        except KeyError:
            _create(name)
        for file in (Path("/etc/subuid"), Path("/etc/subgid")):
            _set_range(file, name, subordinate)


def _create(name: str) -> None:
    command = [require("useradd"), "--create-home", "--shell", "/bin/sh", name]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode != 0:
        lacking(f"cannot create the user {name}: {done.stderr.strip()}")


def _set_range(file: Path, name: str, wanted: bool) -> None:
    text = file.read_text() if file.exists() else ""
    present = re.search(rf"^{re.escape(name)}:", text, re.MULTILINE) is not None
    if wanted and not present:
        file.write_text(f"{text}{name}:4000000:65536\n")
    elif present and not wanted:
        file.write_text(re.sub(rf"^{re.escape(name)}:.*\n", "", text, flags=re.MULTILINE))
