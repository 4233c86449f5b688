"""What a script's lock does for a run: it says which store paths the packages are, and checks them.

A lock is current when the script and the flags state what they stated when it was written; nothing
is looked up for that. A current lock replaces the resolving of packages, so neither links nor an
evaluator are needed, and what is fetched or found for it must have the NAR hashes that it has. With
`--locked` every doubt is an error; otherwise one that is stale is left aside with a warning.

Out of scope: the text of a lock (`eka/script/lock.py`), writing one (`eka/locking.py`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from eka.fetching import Reach
from eka.packages import PackageRef
from eka.script.flags import Flags
from eka.script.lock import SIZE_LIMIT, Content, Lock, is_ours, parse_lock
from eka.script.scan import Candidate, resolve, scan
from eka_runtime.errors import HashMismatch, LockError
from eka_runtime.linux.elf import is_elf
from eka_runtime.store.pathinfo import PathInfo

if TYPE_CHECKING:
    from eka_runtime.nix.narinfo import NarInfo


class Statement(NamedTuple):
    """What a script and its flags state; `packages` is None for a file that is scanned instead."""

    file: str
    interpreter: str | None
    packages: tuple[str, ...] | None
    renewal: str

    @classmethod
    def of(cls, file: str, flags: Flags, refs: Sequence[PackageRef], *, scanned: bool) -> Statement:
        texts = None if scanned else tuple(as_stated(ref, file) for ref in refs)
        interpreter = flags.interpreter.value if flags.interpreter else None
        return cls(file, interpreter, texts, _renewal(file, flags))

    @property
    def lock(self) -> str:
        """Where its lock is, or would be."""
        return lock_place(self.file)


class Locked(NamedTuple):
    """A current lock, read from `file`; with `strict` what it does not fit is an error."""

    file: str
    lock: Lock
    strict: bool
    renewal: str

    def check(self, closure: Iterable[PathInfo], reach: Reach) -> bool:
        """Whether the store has what was locked. Raises HashMismatch or LockError if `strict`."""
        try:
            self._check(closure, reach)
        except (HashMismatch, LockError) as error:
            if self.strict:
                raise
            reach.warn(f"{error}: {error.hint}")
            return False
        return True

    def _check(self, closure: Iterable[PathInfo], reach: Reach) -> None:
        where = f"the store `{reach.store.root}`"
        there = set()
        for info in closure:
            self.check_path(info, where)
            there.add(info.path)
        if missing := sorted(self.lock.closure.keys() - there):
            raise LockError(
                f"`{self.file}` has `{missing[0]}`, which nothing in {where} refers to",
                hint=f"renew it with `{self.renewal}`",
            )

    def check_path(self, info: PathInfo | NarInfo, where: str) -> None:
        """Raises LockError for a path that was not locked, HashMismatch for other contents."""
        locked, found = self.lock.closure.get(info.path), Content.of(info)
        if locked is None:
            raise LockError(
                f"{where} has `{info.path}` in the closure, which `{self.file}` does not have",
                hint=f"renew it with `{self.renewal}`",
            )
        if found != locked:
            raise HashMismatch(
                f"`{info.path}` in {where} has the NAR hash {found.sri()} and"
                f" {found.nar_size} bytes, in `{self.file}` it has {locked.sri()} and"
                f" {locked.nar_size}",
                hint=f"find out which is right; `{self.renewal}` takes what is in the store",
            )


class Heeded(NamedTuple):
    """`stale` when there is a lock that must not be used, which the next start shall tell too."""

    locked: Locked | None = None
    stale: bool = False


def lock_place(file: str) -> str:
    """Beside the file itself, wherever links to it lie: relative packages start there, too."""
    return os.path.realpath(file) + ".lock"


def heed(statement: Statement, reach: Reach, *, strict: bool) -> Heeded:
    """The lock of a script if it is current. Raises LockError if `strict`, else only warns."""
    place = statement.lock
    data = read_lock(place)
    if data is None or not (strict or is_ours(data)):
        if strict:
            raise LockError(f"`{place}` is missing", hint=f"write it with `{statement.renewal}`")
        return Heeded()
    try:
        lock = parse_lock(data, place)
        if reason := difference(lock, statement):
            raise LockError(f"`{place}` is stale: {reason}")
    except LockError as error:
        hint = error.hint or f"renew it with `{statement.renewal}`"
        if strict:
            raise LockError(str(error), hint=hint) from None
        reach.warn(f"{error}: it is not used, {hint}")
        return Heeded(stale=True)
    return Heeded(Locked(place, lock, strict, statement.renewal))


def read_lock(place: str) -> bytes | None:
    """None when there is none. Raises LockError for one that cannot be read."""
    try:
        if not os.path.isfile(place):
            return None
        with open(place, "rb") as stream:
            return stream.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise LockError(f"`{place}` cannot be read: {error.strerror}") from error


def difference(lock: Lock, statement: Statement) -> str | None:
    """Why a lock is stale; None while it is current."""
    if lock.interpreter != statement.interpreter:
        return f"the interpreter is {_shown(statement.interpreter)}, not {_shown(lock.interpreter)}"
    if statement.packages is None:
        return _difference_in_mentions(lock, statement.file)
    if lock.packages is None:
        return "packages are stated now"
    locked = tuple(text for text, _ in lock.packages)
    for text in statement.packages:
        if text not in locked:
            return f"the package `{text}` is new"
    for text in locked:
        if text not in statement.packages:
            return f"the package `{text}` is not stated any more"
    return None if locked == statement.packages else "the packages are in another order"


def _difference_in_mentions(lock: Lock, file: str) -> str | None:
    if lock.mentioned is None:
        return "no packages are stated any more"
    known = {path.hash: path for path in lock.mentioned}
    with open(file, "rb") as stream:
        found = resolve(scan(stream.read), known.get)
    for path in lock.mentioned:
        if path not in found.paths:
            return f"`{path}` is not mentioned any more"
    # A binary mentions much that it never needs, and that was not in the store either.
    new: Sequence[Candidate] = () if is_elf(file) else found.missing
    return f"the mention of `{new[0]}` is new" if new else None


def _shown(interpreter: str | None) -> str:
    return f"`{interpreter}`" if interpreter else "not stated"


def as_stated(ref: PackageRef, file: str) -> str:
    """The text of a package; a relative one of the command line as the script would state it."""
    start, base = os.path.realpath(ref.base), os.path.dirname(os.path.realpath(file))
    if start == base or ref.text.startswith(("/", "~")) or "::" in ref.text or "#" in ref.text:
        return ref.text
    return os.path.relpath(os.path.join(start, ref.text), base)


def _renewal(file: str, flags: Flags) -> str:
    """The command that would write a lock for the script with these flags."""
    words = ["eka", "lock"]
    for item in flags.packages:
        words += [] if item.in_script else ["-p", item.value]
    if flags.interpreter and not flags.interpreter.in_script:
        words += ["-i", flags.interpreter.value]
    return shlex.join([*words, *(["--"] if file.startswith("-") else []), file])
