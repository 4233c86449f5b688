"""`atom.lock`: what the atoms and files that a manifest wants are, exactly.

Read strictly, written in upstream's canonical text. Unlike upstream, the ids are recomputed when a
lock is read: one that does not belong to its set and label is an error. `unpack` of `nix+src` and
the type `electron` are eka's extensions, written only for manifests that opt into them. Source:
upstream's format, version 1; spec/atom.md is the rule book. Out of scope: whether a lock fits its
manifest (`eka/atom/resolve.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from eka.atom import fields
from eka.atom.git_url import mirror_key
from eka.atom.identity import atom_id
from eka.atom.places import Path
from eka.atom.toml_file import Source, read_bytes
from eka.atom.version import Version
from eka.shapes import Choice, Constant, Field, Items, Json, Map, Plain, Problem, Table, table
from eka_runtime.errors import LockError

FILE = "atom.lock"
VERSION = 1
SIZE_LIMIT = 1 << 24


class LockedSet(NamedTuple):
    """`mirrors` in upstream's order, `::` first."""

    tag: str
    mirrors: tuple[str, ...]


class LockedAtom(NamedTuple):
    """`rev` is the atom commit; it and `mirror` are None for an atom of the local set only."""

    label: str
    version: Version
    set: str
    rev: str | None
    mirror: str | None
    id: str


FileType = Literal["nix", "nix+tar", "nix+src"]


class LockedFile(NamedTuple):
    """`hash` as SRI: of the bytes, or for nix+tar and with `unpack` of the NAR."""

    type: FileType
    name: str
    url: str
    hash: str
    unpack: bool = False


class LockedGit(NamedTuple):
    """`version` if a version was asked for."""

    name: str
    url: str
    version: Version | None
    rev: str


class LockedSource(NamedTuple):
    """An electron: a tree of the set's own repository, as its git object."""

    name: str
    tree: str


class LockedWith(NamedTuple):
    """Composed by `atom`, starting at `entry`."""

    atom: LockedAtom
    entry: str


class LockedNix(NamedTuple):
    entry: str


class LockedStatic(NamedTuple):
    """Upstream writes no lock for these; eka does, for evaluators that want one."""


LockedCompose = LockedWith | LockedNix | LockedStatic
Dependency = LockedAtom | LockedFile | LockedGit | LockedSource

NIX_LOCK = LockedAtom(
    label="nix-lock",
    version=Version(0, 1, 6),
    set="4abbd2644bc3585e9be95deb277ccf48f6ed26ac",
    rev="e711aa1f48d877652dd2ba724d4af752be7b5371",
    mirror="https://github.com/ekala-project/eka",
    id="r3rlam6bd31t9i04ggug7avs8vf8981q7a3b6gobemk1gfs50qm0",
)
"""The locker that upstream writes in new locks, whatever is published meanwhile."""


class Lock(NamedTuple):
    """`sets` by genesis. `locker` is None only for locks of others, read with `lenient`."""

    compose: LockedCompose
    sets: Mapping[str, LockedSet] = {}
    locker: LockedAtom | None = NIX_LOCK
    deps: tuple[Dependency, ...] = ()

    def atoms(self) -> tuple[LockedAtom, ...]:
        return tuple(dep for dep in self.deps if isinstance(dep, LockedAtom))

    def sources(self) -> tuple[LockedSource, ...]:
        return tuple(dep for dep in self.deps if isinstance(dep, LockedSource))


def read_lock(file: str | os.PathLike[str], *, lenient: bool = False) -> Lock:
    """Of the file, or of the directory that it is in. Raises LockError."""
    place = os.path.join(file, FILE) if os.path.isdir(file) else os.fspath(file)
    return parse_lock(read_bytes(place, LockError, SIZE_LIMIT), place, lenient=lenient)


def parse_lock(data: bytes, name: str = FILE, *, lenient: bool = False) -> Lock:
    """`lenient` takes a lock without locker, as some published atoms have. Raises LockError."""
    source = Source(data, name, LockError, SIZE_LIMIT)
    return source.check(lambda found: check_lock(found, lenient=lenient))


_ATOM = {
    "label": Field(fields.LABEL, "", required=True),
    "version": Field(fields.VERSION, "With pre-release `local` if not published.", required=True),
    "set": Field(fields.GIT_ID, "Genesis of its set.", required=True),
    "rev": Field(fields.GIT_ID, "The atom commit; absent if only in the local set."),
    "mirror": Field(fields.LOCKED_MIRROR, "Where the set can be fetched from."),
    "id": Field(fields.ATOM_ID, "Of set and label.", required=True),
}
_FILE = {
    "name": Field(fields.LABEL, "", required=True),
    "url": Field(fields.WEB_URL, "", required=True),
    "hash": Field(fields.HASH, "SRI; older notations are read.", required=True),
}
_DEPENDENCIES: Mapping[str, Table] = {
    "atom": Table({"type": Field(Choice("atom"), ""), **_ATOM}),
    "nix": Table({"type": Field(Choice("nix"), ""), **_FILE}),
    "nix+tar": Table({"type": Field(Choice("nix+tar"), ""), **_FILE}),
    "nix+git": Table(
        {
            "type": Field(Choice("nix+git"), ""),
            "name": Field(fields.LABEL, "", required=True),
            "url": Field(fields.GIT_URL, "", required=True),
            "version": Field(fields.VERSION, "Of the tag, if a version was asked for."),
            "rev": Field(fields.GIT_ID, "", required=True),
        }
    ),
    "nix+src": Table(
        {
            "type": Field(Choice("nix+src"), ""),
            **_FILE,
            "unpack": Field(Plain(bool, "true or false"), "", extension=True),
        }
    ),
    "electron": Table(
        {
            "type": Field(Choice("electron"), "", extension=True),
            "name": Field(fields.LABEL, "", required=True),
            "tree": Field(fields.GIT_ID, "", required=True),
        }
    ),
}
_COMPOSES: Mapping[str, Table] = {
    "atom": Table(
        {
            "use": Field(Choice("atom"), ""),
            **_ATOM,
            "entry": Field(fields.ENTRY, "", required=True),
        }
    ),
    "nix": Table(
        {"use": Field(Choice("nix"), ""), "entry": Field(fields.ENTRY, "", required=True)}
    ),
    "static": Table({"use": Field(Choice("static"), "")}),
}


class Tagged:
    """A table of one of several kinds, as its key `tag` says."""

    def __init__(self, tag: str, kinds: Mapping[str, Table]) -> None:
        self._tag = tag
        self._kinds = kinds
        self._choice = Choice(*kinds)

    def check(self, value: object, path: Path) -> dict[str, Any]:
        item = table(value, path, "a table")
        if self._tag not in item:
            known = ", ".join(f'"{name}"' for name in self._kinds)
            hint = f"write `{self._tag}` with one of {known}"
            raise Problem(f"the table has no `{self._tag}`", path, hint=hint)
        kind = self._choice.check(item[self._tag], (*path, self._tag))
        return self._kinds[kind].check(item, path)

    def schema(self) -> Json:
        shapes = [kind.schema() for kind in self._kinds.values()]
        for shape in shapes:
            shape["required"] = [self._tag, *shape["required"]]
        return {"oneOf": shapes}


LOCK = Table(
    {
        "version": Field(Constant(VERSION), "Of the format.", required=True),
        "sets": Field(
            Map(
                fields.GIT_ID,
                Table(
                    {
                        "tag": Field(fields.TAG, "", required=True),
                        "mirrors": Field(
                            Items(fields.LOCKED_MIRROR, "an array of mirrors"), "", required=True
                        ),
                    }
                ),
                "a table of sets",
            ),
            "By genesis.",
        ),
        "locker": Field(Table(_ATOM), "The atom whose code reads this file.", required=True),
        "compose": Field(Tagged("use", _COMPOSES), "", required=True),
        "deps": Field(Items(Tagged("type", _DEPENDENCIES), "an array of tables"), ""),
    }
)
_LENIENT = Table({**LOCK.fields, "locker": LOCK.fields["locker"]._replace(required=False)})


def check_lock(data: Mapping[str, object], *, lenient: bool = False) -> Lock:
    """Raises shapes.Problem."""
    found = (_LENIENT if lenient else LOCK).check(data, ())
    sets = {
        genesis: LockedSet(item["tag"], tuple(sorted(set(item["mirrors"]), key=mirror_key)))
        for genesis, item in found.get("sets", {}).items()
    }
    locker = _atom(found["locker"], ("locker",)) if "locker" in found else None
    deps = tuple(
        _dependency(item, ("deps", number)) for number, item in enumerate(found.get("deps", ()))
    )
    _check_unique(deps)
    return Lock(_compose(found["compose"]), sets, locker, deps)


def _atom(item: Mapping[str, Any], path: Path) -> LockedAtom:
    atom = LockedAtom(*(item.get(key) for key in LockedAtom._fields))  # type: ignore[arg-type]
    # Only SHA-1 genesis ids have a defined atom id.
    if len(atom.set) == 40 and (right := atom_id(atom.set, atom.label)) != atom.id:
        message = f"the id of `{atom.label}` is not that of its set and label, `{right}`"
        hint = "the lock was tampered with or written by hand; `eka resolve --fresh` writes it anew"
        raise Problem(message, (*path, "id"), hint=hint)
    return atom


def _compose(item: Mapping[str, Any]) -> LockedCompose:
    if item["use"] == "atom":
        return LockedWith(_atom(item, ("compose",)), item["entry"])
    return LockedNix(item["entry"]) if item["use"] == "nix" else LockedStatic()


def _dependency(item: Mapping[str, Any], path: Path) -> Dependency:
    match item["type"]:
        case "atom":
            return _atom(item, path)
        case "nix+git":
            return LockedGit(item["name"], item["url"], item.get("version"), item["rev"])
        case "electron":
            return LockedSource(item["name"], item["tree"])
    return LockedFile(
        item["type"], item["name"], item["url"], item["hash"], item.get("unpack", False)
    )


def _check_unique(deps: tuple[Dependency, ...]) -> None:
    seen: set[tuple[str, ...]] = set()
    for number, dep in enumerate(deps):
        key = dependency_key(dep)
        if key in seen:
            raise Problem(f"`{key[-1]}` is locked twice", ("deps", number), hint="remove one")
        seen.add(key)


def dependency_key(dep: Dependency) -> tuple[str, ...]:
    """What may be locked once, in the order of the file: atoms, Nix's, electrons."""
    if isinstance(dep, LockedAtom):
        return ("0", dep.set, dep.label)
    return ("2" if isinstance(dep, LockedSource) else "1", dep.name)
