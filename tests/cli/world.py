"""A user with an installed eka, a store of his own, and a directory to work in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.seed import NixClosure
from tests.users import User


class World(NamedTuple):
    """`place` is `user`'s; the store holds the closure of `greet` and, outside it, `other`."""

    user: User
    bin: Path
    place: Path
    greet: str
    busybox: str
    other: str

    @property
    def work(self) -> Path:
        """Where things are done; eka's own directories are beside it."""
        return self.place / "work"

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin:/usr/sbin",
            "EKA_STORE": os.fspath(self.place / "store"),
            "XDG_CACHE_HOME": os.fspath(self.place / "cache"),
            "XDG_CONFIG_HOME": os.fspath(self.place / "config"),
        }

    def run(self, *argv: str | bytes | os.PathLike[str], **more: Any) -> Done:
        """Any program, found in this world's PATH, started in its directory by default."""
        env = self.environment() | more.pop("env", {})
        more.setdefault("cwd", self.work)
        done = self.user.run(argv, env=env, **more)  # type: ignore[arg-type]
        return Done(done.returncode, done.stdout or b"", done.stderr or b"")

    def popen(self, *argv: str | bytes | os.PathLike[str], **more: Any) -> subprocess.Popen[bytes]:
        env = self.environment() | more.pop("env", {})
        more.setdefault("cwd", self.work)
        return self.user.popen(argv, env=env, **more)  # type: ignore[arg-type]

    def directory(self, name: str) -> Path:
        """A fresh directory of the user's."""
        made = self.work / name
        made.mkdir(parents=True)
        os.chown(made, self.user.uid, self.user.gid)
        return made

    def file(self, file: Path, text: str | bytes, mode: int = 0o644) -> Path:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        os.chown(file, self.user.uid, self.user.gid)
        file.chmod(mode)
        return file

    def script(self, directory: Path, body: str, header: str = "", name: str = "script") -> Path:
        """A shell script with busybox; `header` is TOML that goes before or replaces packages."""
        lines = header.strip().splitlines()
        if not any(line.startswith("packages") for line in lines):
            lines.insert(0, f'packages = ["{self.busybox}"]')
        block = "".join(f"# {line}\n" for line in lines)
        text = f"#!/usr/bin/env eka-run\n# /// eka\n{block}# ///\n{body}\n"
        return self.file(directory / name, text, 0o755)


class Done(NamedTuple):
    status: int
    out: bytes
    err: bytes


@contextmanager
def make_world(user: User, bin_dir: Path, place: Path, closure: NixClosure) -> Iterator[World]:
    """Seeds the store by eka's own commands; at the end the store must verify."""
    (place / "work").mkdir()
    for directory in (place, place / "work"):
        os.chown(directory, user.uid, user.gid)
    world = World(user, bin_dir, place, closure.root, _named(closure, "busybox-tools"), "")
    with closure.stream.open("rb") as stream:
        imported = world.run("eka", "store", "import", stdin=stream)
    assert imported.status == 0, imported.err.decode()
    secret = world.file(place / "secret", "not part of any closure\n")
    added = world.run("eka", "store", "add", secret)
    assert added.status == 0, added.err.decode()
    yield world._replace(other=added.out.decode().strip())
    verified = world.run("eka", "store", "verify", "--deep")
    assert verified.status == 0, (verified.out + verified.err).decode()


def _named(closure: NixClosure, name: str) -> str:
    return next(path for path in closure.paths if path.endswith(f"-{name}"))
