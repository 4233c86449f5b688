"""One atom's directory with its manifest and lock: reads both, resolves, writes both.

Both new texts are made and checked before either file is touched; the manifest is replaced first,
so that what a crash between them leaves is an old lock, which the next resolve brings in step.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eka.atom import lock as lock_format
from eka.atom import manifest as manifest_format
from eka.atom.direct import Locked, lock_direct
from eka.atom.lock import (
    Lock,
    LockedAtom,
    LockedGit,
    LockedSource,
    LockedStatic,
    LockedWith,
    dependency_key,
    parse_lock,
)
from eka.atom.lock_text import lock_text
from eka.atom.manifest import parse_manifest
from eka.atom.mirrors import Mirrors
from eka.atom.parts import Direct
from eka.atom.resolve import Resolver
from eka.atom.sets import LocalSet
from eka.atom.settings import AtomSettings
from eka.atom.toml_file import SIZE_LIMIT, read_bytes
from eka.replacing import replace_file
from eka_runtime.errors import LockError, ManifestError, UsageError

if TYPE_CHECKING:
    from eka.atom.download import Progress

Report = Callable[[str], None]
OnDownload = Callable[[str], "Progress"]


class Change(NamedTuple):
    """Of one locked thing; None for what was or is not there."""

    name: str
    old: str | None
    new: str | None


class Result(NamedTuple):
    """What resolving makes of an atom; nothing is written yet."""

    directory: Path
    manifest: bytes
    lock: Lock
    text: str
    changed: bool
    changes: tuple[Change, ...]
    refs: dict[str, str]


class Workspace:
    """Resolves atoms of one set, asking each remote at most once for all of them."""

    def __init__(
        self,
        local: LocalSet,
        settings: AtomSettings,
        warn: Report,
        *,
        offline: bool = False,
        on_download: OnDownload = lambda url: lambda size: None,
    ) -> None:
        self.local = local
        self._genesis: str | None = None
        self.mirrors = Mirrors(local.root, self.genesis, warn, offline=offline)
        self._cache = settings.cache
        self._offline = offline
        self._memory = settings.cache / "refs"
        self._on_download = on_download

    def genesis(self) -> str:
        """Of the local set, computed once."""
        if self._genesis is None:
            self._genesis = self.local.genesis()
        return self._genesis

    def resolve(
        self,
        directory: Path,
        *,
        fresh: bool = False,
        upgrade: Collection[str] = (),
        manifest: bytes | None = None,
    ) -> Result:
        """`manifest` is a new text for it; what is named in `upgrade` is looked up anew.

        Raises ManifestError, LockError, ResolveError, …"""
        place = directory / manifest_format.FILE
        text = manifest if manifest is not None else _read(place)
        parsed = parse_manifest(text, os.fspath(place))
        before = self._old_lock(directory)
        old = None if fresh or before is None else _without(before[1], upgrade)
        memory = self._recall(directory)

        def moved(name: str, direct: Direct) -> bool:
            return direct.variety == "git" and memory.get(name, direct.ref or "") != (
                direct.ref or ""
            )

        resolver = Resolver(parsed, self.local, self.mirrors, old, self._lock_direct, moved)
        lock = resolver.run()
        new_text = lock_text(lock)
        previous = before[1] if before else None
        refs = {name: direct.ref or "" for name, direct in parsed.direct.items()}
        changed = before is None or new_text.encode() != before[0]
        return Result(
            directory, text, lock, new_text, changed, tuple(_changes(previous, lock)), refs
        )

    def write(self, result: Result) -> None:
        """Raises UsageError for what cannot be written."""
        place = result.directory / manifest_format.FILE
        parse_manifest(result.manifest, os.fspath(place))
        try:
            if not place.exists() or place.read_bytes() != result.manifest:
                replace_file(os.fspath(place), result.manifest)
            if result.changed:
                lock = result.directory / lock_format.FILE
                replace_file(os.fspath(lock), result.text.encode())
        except OSError as error:
            raise UsageError(f"cannot write `{error.filename}`: {error.strerror}") from error
        self._remember(result)

    def _old_lock(self, directory: Path) -> tuple[bytes, Lock] | None:
        place = directory / lock_format.FILE
        if not place.exists():
            return None
        data = read_bytes(place, LockError, lock_format.SIZE_LIMIT)
        return data, parse_lock(data, os.fspath(place))

    def _lock_direct(self, name: str, direct: Direct, url: str) -> Locked:
        from eka.atom.download import Downloads

        progress = self._on_download(url)
        downloads = Downloads(self._cache / "downloads", offline=self._offline)
        return lock_direct(name, direct, url, downloads, base=self.local.root, progress=progress)

    # Locks do not say which ref a revision was taken from. What this machine knows of it is kept
    # here, so that a change of `ref` in the manifest is noticed; losing it loses only that.

    def _memory_file(self, directory: Path) -> Path:
        name = os.fsencode(os.path.realpath(directory))
        return self._memory / hashlib.sha256(name).hexdigest()

    def _recall(self, directory: Path) -> dict[str, str]:
        with suppress(OSError, ValueError):
            found = json.loads(self._memory_file(directory).read_bytes())
            if isinstance(found, dict):
                return {str(key): str(value) for key, value in found.items()}
        return {}

    def _remember(self, result: Result) -> None:
        file = self._memory_file(result.directory)
        with suppress(OSError):
            if result.refs or file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                temporary = file.with_name(f".new-{os.getpid()}-{file.name}")
                temporary.write_text(json.dumps(result.refs), "utf-8")
                temporary.replace(file)


def atom_directory(place: str, local: LocalSet) -> Path:
    """Of an atom named by its label, as `::label`, or by its path. Raises UsageError."""
    label = place.removeprefix("::")
    if label in local.members:
        return local.root / local.members[label].path
    path = Path(place)
    directory = path.parent if path.name == manifest_format.FILE else path
    if (directory / manifest_format.FILE).is_file() and not place.startswith("::"):
        return directory
    known = ", ".join(f"`{name}`" for name in local.members) or "none"
    raise UsageError(f"`{place}` is no atom of this set", hint=f"its atoms: {known}")


def _read(place: Path) -> bytes:
    if not place.exists():
        raise ManifestError(f"there is no `{place}`", hint="run `eka new PATH`")
    return read_bytes(place, ManifestError, SIZE_LIMIT)


def _without(lock: Lock, names: Collection[str]) -> Lock:
    known = {dependency_key(dep)[-1] for dep in lock.deps}
    compose = lock.compose
    if isinstance(compose, LockedWith):
        known.add(compose.atom.label)
        if compose.atom.label in names:
            compose = LockedStatic()
    if unknown := [name for name in names if name not in known]:
        listed = ", ".join(f"`{name}`" for name in sorted(known)) or "nothing"
        raise UsageError(f"`{unknown[0]}` is not locked", hint=f"locked is {listed}")
    deps = tuple(dep for dep in lock.deps if dependency_key(dep)[-1] not in names)
    return lock._replace(compose=compose, deps=deps)


def _changes(old: Lock | None, new: Lock) -> Iterator[Change]:
    before, after = _shown(old), _shown(new)
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) != after.get(key):
            yield Change(key, before.get(key), after.get(key))


def _shown(lock: Lock | None) -> dict[str, str]:
    """What each locked thing is, in words."""
    if lock is None:
        return {}
    shown: dict[str, str] = {}
    if isinstance(lock.compose, LockedWith):
        shown[f"composer {lock.compose.atom.label}"] = _atom_words(lock.compose.atom)
    for dep in sorted(lock.deps, key=dependency_key):
        if isinstance(dep, LockedAtom):
            shown[dep.label] = _atom_words(dep)
        elif isinstance(dep, LockedGit):
            shown[dep.name] = f"{dep.version or ''} {dep.rev[:12]}".strip()
        else:
            shown[dep.name] = dep.tree if isinstance(dep, LockedSource) else dep.hash
    return shown


def _atom_words(atom: LockedAtom) -> str:
    return f"{atom.version} {atom.rev[:12]}" if atom.rev else f"{atom.version} (this set)"
