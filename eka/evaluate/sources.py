"""Where the inputs of an evaluation come from: the local set, and what the lock names.

What is fetched becomes a path of the store, as Nix's own fetchers would make it: `nix` a flat file,
`nix+tar`, `nix+git` and `electron` a tree called `source`, an atom a tree called by its label. A
path that follows from a hash in the lock is looked for before anything is fetched; what git has
is kept:

    $XDG_CACHE_HOME/eka/fetched/<key>     the store path of a commit's tree, or of a tree

Out of scope: choosing versions (`eka/atom/resolve.py`), the caches below (`cache.py`, `download.py`
of `eka/atom/`).
"""

from __future__ import annotations

import os
import re
from _blake2 import blake2b
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from eka.atom.lock import LockedAtom, LockedFile, LockedGit, LockedSource
from eka.atom.set_file import FILE
from eka.atom.sets import find_set_root, load_set
from eka.config import cache_dir
from eka.evaluate.graph import NO_SET, LocalSet
from eka.kept import publish, touch
from eka_runtime.errors import GitError, HashMismatch, InvalidStorePath, PathNotFound
from eka_runtime.nix.hashes import NixHash, parse_hash
from eka_runtime.nix.path import ContentAddress, StorePath, path_for_ca
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

if TYPE_CHECKING:
    from eka.atom.cache import AtomCache
    from eka.atom.repository import Repository

_UNFIT = re.compile(r"[^A-Za-z0-9+._?=-]")
Say = Callable[[str], None]


class StoreSources(NamedTuple):
    """Sources for one open store, of an atom at `directory`; `say` tells of fetching."""

    store: Store
    directory: Path
    offline: bool
    say: Say

    def local_set(self, directory: Path) -> LocalSet:
        return find_local_set(directory)

    def atom(self, locked: LockedAtom, mirrors: Iterable[str] = ()) -> StorePath:
        """Raises AtomMismatch, GitError, ResolveError."""
        assert locked.rev is not None
        key = f"atom {locked.rev} {locked.label}"
        return self._kept(key) or self._tree(
            key, locked.label, lambda: (self._atoms().repository(), self._fetch(locked, mirrors))
        )

    def pin(self, locked: LockedFile | LockedGit) -> StorePath:
        """Raises GitError, ServiceError, HashMismatch."""
        if isinstance(locked, LockedGit):
            key = f"git {locked.rev}"
            return self._kept(key) or self._tree(
                key, "source", lambda: (self._atoms().repository(), self._commit(locked))
            )
        wanted = parse_hash(locked.hash)
        method = "recursive" if locked.type == "nix+tar" else "flat"
        name = "source" if method == "recursive" else _name_of(locked.url)
        address = ContentAddress(method, wanted)
        path = path_for_ca(name, address)
        if self.store.paths.get(path) is None:
            self._download(locked, path, address)
        return path

    def electron(self, locked: LockedSource, mirrors: Iterable[str] = ()) -> StorePath:
        """Raises AtomMismatch, GitError."""
        key = f"tree {locked.tree}"
        return self._kept(key) or self._tree(
            key, "source", lambda: (self._having(locked, mirrors), locked.tree)
        )

    def read(self, path: StorePath, name: str) -> bytes | None:
        found = bytearray()
        try:
            self.store.write_file(f"{path}/{name}", found.extend)
        except PathNotFound:
            return None
        return bytes(found)

    def _base(self) -> Path:
        """Where relative mirrors start."""
        found = find_set_root(self.directory)
        return found[0] if found else self.directory

    def _cache(self) -> Path:
        from eka.atom.settings import load_atom_settings

        return load_atom_settings(os.environ, self._base()).cache

    def _atoms(self) -> AtomCache:
        from eka.atom.cache import AtomCache

        return AtomCache(self._cache(), self._base(), offline=self.offline)

    def _fetch(self, locked: LockedAtom, mirrors: Iterable[str]) -> str:
        self.say(f"fetching the atom `{locked.label}` {locked.version}")
        return self._atoms().fetch(locked, mirrors)

    def _commit(self, locked: LockedGit) -> str:
        from eka.atom.cache import fetch_ref

        base, repository = self._base(), self._atoms().repository()
        if repository.tree(locked.rev) is None:
            if self.offline:
                raise GitError(f"`{locked.name}` was never fetched, and this is offline")
            self.say(f"fetching `{locked.name}` from {locked.url}")
            try:
                fetch_ref(repository, locked.url, locked.rev, base)
            except GitError:
                # Some servers give out named commits only.
                fetch_ref(repository, locked.url, "HEAD", base, depth=None)
            repository.git("update-ref", f"refs/eka-pins/{locked.rev}", locked.rev)
        return locked.rev

    def _having(self, locked: LockedSource, mirrors: Iterable[str]) -> Repository:
        """That of the set around us, or else the cache, which fetches it."""
        found = find_set_root(self.directory)
        own = found[1] if found else None
        # What lies in a checkout is not asked for elsewhere; a tree is its own name.
        if own is not None and own.ref(f"{locked.tree}^{{tree}}") == locked.tree:
            return own
        atoms = self._atoms()
        self.say(f"fetching the source `{locked.name}`")
        atoms.fetch_source(locked, mirrors)
        return atoms.repository()

    def _tree(self, key: str, name: str, fetch: Callable[[], tuple[Repository, str]]) -> StorePath:
        import tempfile

        from eka.atom.cache import export_tree

        repository, treeish = fetch()
        with tempfile.TemporaryDirectory(prefix="eka-fetch-") as directory:
            place = Path(directory) / "tree"
            export_tree(repository, treeish, place)
            path = self.store.add_tree(place, name=_UNFIT.sub("-", name)).path
        # Without it, fetched from the cache of atoms next time.
        publish(_record(key), str(path).encode("utf-8"))
        return path

    def _kept(self, key: str) -> StorePath | None:
        try:
            path = StorePath.parse(_record(key).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, InvalidStorePath):
            return None
        touch(_record(key))
        return path if self.store.paths.get(path) else None

    def _download(self, locked: LockedFile, path: StorePath, address: ContentAddress) -> None:
        from eka.atom.download import Downloads

        self.say(f"fetching {locked.url}")
        downloads = Downloads(self._cache() / "downloads", offline=self.offline)
        file = downloads.get(locked.url).file
        if address.method == "recursive":
            _add_unpacked(self.store, file, path, address)
            return
        found = NixHash(address.hash.algo, _file_digest(file, address.hash.algo))
        _compare(locked.url, found, address.hash)
        if address.hash.algo == "sha256":
            self.store.add_flat(file, name=path.name)
        else:
            _add_file(self.store, file, path, address)


def find_local_set(directory: Path) -> LocalSet:
    """The set that a directory is in. Raises ManifestError, GitError for part of a history."""
    found = find_set_root(directory)
    if found is None:
        # Part of a repository that is no set itself, such as a directory of examples.
        above = (place for place in (directory, *directory.parents) if (place / FILE).is_file())
        place = next(above, None)
        if place is None:
            return NO_SET
        found = place, None
    local = load_set(*found)
    atoms = {label: local.root / member.path for label, member in local.members.items()}
    return LocalSet(local.genesis_or_none(), atoms)


def _name_of(url: str) -> str:
    """As fetchurl names it: the last part of the path."""
    name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return _UNFIT.sub("-", name).lstrip(".")[:200] or "source"


def _file_digest(file: Path, algorithm: str) -> bytes:
    import hashlib

    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).digest()


def _compare(url: str, found: NixHash, wanted: NixHash) -> None:
    if found != wanted:
        raise HashMismatch(
            f"`{url}` has the hash {found.sri()}, and {wanted.sri()} is locked",
            hint="find out which is right; `eka resolve --fresh` takes what is there now",
        )


def _add_unpacked(store: Store, file: Path, path: StorePath, address: ContentAddress) -> None:
    import tempfile

    from eka.atom.archive import unpack
    from eka_runtime.nix.nar import NarWriter

    with tempfile.TemporaryFile(dir=store.layout.tmp) as nar:
        unpack(file, NarWriter(nar.write))
        _add_nar(store, nar, path, address, os.fspath(file))


def _add_file(store: Store, file: Path, path: StorePath, address: ContentAddress) -> None:
    import tempfile

    from eka_runtime.nix.nar import NarWriter

    with tempfile.TemporaryFile(dir=store.layout.tmp) as nar, file.open("rb") as stream:
        NarWriter(nar.write).file(b"", False, file.stat().st_size, stream.read)
        _add_nar(store, nar, path, address, os.fspath(file))


def _add_nar(
    store: Store,
    stream: IO[bytes],
    path: StorePath,
    address: ContentAddress,
    what: str,
) -> None:
    import hashlib

    from eka_runtime.castore.ingest import ingest_nar
    from eka_runtime.nix.tokens import NarReader

    stream.seek(0)
    hasher = hashlib.new(address.hash.algo, usedforsecurity=False)

    def read(size: int) -> bytes:
        data = stream.read(size)
        hasher.update(data)
        return data

    with store.batch() as batch:
        ingested = ingest_nar(batch, NarReader(read, subject=what))
        if address.method == "recursive":
            _compare(what, NixHash(address.hash.algo, hasher.digest()), address.hash)
        store.commit(batch, PathInfo(path, *ingested, ca=str(address)))


def _record(key: str) -> Path:
    name = blake2b(key.encode(), digest_size=16).hexdigest()
    return cache_dir(os.environ) / "fetched" / name
