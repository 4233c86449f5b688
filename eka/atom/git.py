"""Runs the `git` program: the user's own, with his credentials, proxies and ssh.

Constraint: nothing that came from outside may become an option or another transport. Every
reference and URL stands behind `--` or is checked before, and only common transports are allowed.
Local variables (GIT_DIR and others, set inside hooks) are dropped: the directory decides. Where no
repository is, nothing is started, and `subprocess` not even imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from eka_runtime.errors import GitError
from eka_runtime.printable import printable

if TYPE_CHECKING:
    import subprocess

_LOCAL = {
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"),
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_GRAFT_FILE"),
    *("GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_IMPLICIT_WORK_TREE"),
}
_TRANSPORTS = "file:git:http:https:ssh"
_CHUNK = 1 << 18
_HINTS = {
    "dubious ownership": "see `git help config`, safe.directory",
    "could not read Username": "set up a credential helper, or use ssh",
    "Authentication failed": "check your credentials with `git ls-remote`",
    "Permission denied (publickey)": "check your ssh keys with `git ls-remote`",
    "not allowed": "use an http, https, ssh, git or file URL",
}


def run_git(
    directory: str | os.PathLike[str] | None,
    *arguments: str,
    data: bytes | None = None,
    config: Sequence[str] = (),
    env: dict[str, str] | None = None,
) -> bytes:
    """What git printed. `config` are `key=value`. Raises GitError with git's own words."""
    done = try_git(directory, *arguments, data=data, config=config, env=env)
    if done.returncode:
        raise git_error(arguments, done)
    return done.stdout


def bounded_git(*arguments: str, directory: str | os.PathLike[str] | None, limit: int) -> bytes:
    """As `run_git`, for what somebody else decides the size of: GitError beyond `limit` bytes."""
    import subprocess
    import tempfile

    where = [] if directory is None else ["-C", os.fspath(directory)]
    command = ["git", *where, "-c", "protocol.version=2", *arguments]
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                env=git_environment(),
            )
        except OSError as error:
            raise GitError(f"cannot start git: {error.strerror}", hint="install git") from error
        with process:
            assert process.stdout is not None
            out = process.stdout.read(limit + 1)
            if len(out) > limit:
                process.kill()
                raise GitError(f"`git {arguments[0]}` gives more than {limit} bytes")
        if process.returncode:
            said.seek(0)
            done = subprocess.CompletedProcess(command, process.returncode, out, said.read(1 << 16))
            raise git_error(arguments, done)
        return out


def try_git(
    directory: str | os.PathLike[str] | None,
    *arguments: str,
    data: bytes | None = None,
    config: Sequence[str] = (),
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """As `run_git`, whatever the status. Raises GitError only when git cannot be started."""
    import subprocess

    where = [] if directory is None else ["-C", os.fspath(directory)]
    settings = [word for pair in config for word in ("-c", pair)]
    command = ["git", *where, "--no-replace-objects", *settings, *arguments]
    try:
        return subprocess.run(
            command, input=data or b"", capture_output=True, check=False, env=git_environment(env)
        )
    except FileNotFoundError as error:
        raise GitError("`git` is not installed", hint="install git") from error
    except OSError as error:
        raise GitError(f"cannot start git: {error.strerror}") from error


class GitObject(NamedTuple):
    """`kind` is blob, tree, commit or tag; `chunks` its content."""

    kind: str
    size: int
    chunks: Iterator[bytes]


@contextmanager
def object_reader(directory: str | os.PathLike[str]) -> Iterator[Callable[[str], GitObject]]:
    """Yields a function from the id of an object to what it is, one at a time.

    Each must be read to its end before the next is asked for. Raises GitError.
    """
    import subprocess

    command = ["git", "-C", os.fspath(directory), "--no-replace-objects", "cat-file", "--batch"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=git_environment()) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None
        assert answers is not None

        def read(oid: str) -> GitObject:
            requests.write(f"{oid}\n".encode())
            requests.flush()
            words = answers.readline().decode().split()
            if len(words) != 3:
                raise GitError(f"the object {oid} cannot be read from `{os.fspath(directory)}`")
            size = int(words[2])
            return GitObject(words[1], size, content(size))

        def content(left: int) -> Iterator[bytes]:
            while left:
                if not (data := answers.read(min(left, _CHUNK))):
                    raise GitError("git ended before its answer did")
                left -= len(data)
                yield data
            answers.read(1)

        try:
            yield read
        finally:
            requests.close()


def git_environment(more: dict[str, str] | None = None) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in _LOCAL}
    environment.setdefault("GIT_ALLOW_PROTOCOL", _TRANSPORTS)
    # Messages are looked into, and nobody answers a prompt in a script. ssh is left to the user's
    # own settings, which a variable would override.
    environment["LC_ALL"] = "C"
    if not sys.stdin or not sys.stdin.isatty():
        environment.setdefault("GIT_TERMINAL_PROMPT", "0")
    return environment | (more or {})


def git_error(arguments: Sequence[str], done: subprocess.CompletedProcess[bytes]) -> GitError:
    text = done.stderr.decode("utf-8", "replace").strip()
    words = [line for line in text.splitlines() if line.startswith(("fatal:", "error:", " ! "))]
    said = "; ".join(line.strip() for line in (words or text.splitlines())[:3])
    verb = next((word for word in arguments if not word.startswith("-")), "git")
    said = printable(said, " ")
    hint = next((hint for words, hint in _HINTS.items() if words in text), None)
    return GitError(f"`git {verb}` failed: {said or f'status {done.returncode}'}", hint=hint)
