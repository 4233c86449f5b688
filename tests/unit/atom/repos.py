"""Real git repositories for tests: sets of atoms, remotes, mirrors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

IDENTITY = "[user]\nname = T\nemail = t@example.org\n[init]\ndefaultBranch = main\n"


def atom_toml(label: str, version: str = "0.1.0", more: str = "", sets: str = "") -> str:
    package = f'[package]\nlabel = "{label}"\nversion = "{version}"\n{sets}'
    return f'{package}\n[compose.as]\nnix = "."\n{more}'


class Repo(NamedTuple):
    """A work tree; `git` is run in it."""

    path: Path

    @classmethod
    def make(cls, path: Path, *, bare: bool = False) -> Repo:
        path.mkdir(parents=True)
        repo = cls(path)
        repo.git("init", "--quiet", *(["--bare"] if bare else []))
        return repo

    def git(self, *arguments: str, data: bytes | None = None, time: int | None = None) -> str:
        env = dict(os.environ)
        if time is not None:
            env |= dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), f"@{time} +0000")
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            input=data,
            capture_output=True,
            env=env,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text, "utf-8")

    def commit(self, files: dict[str, str], message: str = "work", time: int = 1700000000) -> str:
        """Writes the files and commits everything."""
        self.write(files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message, time=time)
        return self.git("rev-parse", "HEAD")


@contextmanager
def git_settings(place: Path) -> Iterator[None]:
    """git knows who commits and nothing of this machine; eka's cache is below `place`."""
    config = place / "gitconfig"
    config.write_text(IDENTITY, "utf-8")
    mine = {
        "GIT_CONFIG_GLOBAL": os.fspath(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "EKA_CACHE_ROOT": os.fspath(place / "cache"),
        "XDG_CONFIG_HOME": os.fspath(place / "config"),
    }
    before = {key: os.environ.get(key) for key in mine}
    os.environ.update(mine)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
