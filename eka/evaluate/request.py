"""What an evaluator is given: every atom and pin of a closure, where each is, and what is wanted.

The JSON form is what `nix/entry.nix` reads; spec/evaluation.md describes it. It names places inside
the sandbox only, so the same atoms with the same configuration make the same text on every machine.

    /eka/atoms/<number>/<label>     directories of the host: local atoms, or a plain tree
    /nix/store/<hash>-<name>        what was fetched: other atoms, pins
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from eka.evaluate.canonical import Value
from eka.evaluate.config import PLATFORMS, Config
from eka.evaluate.evaluator import Mode
from eka_runtime.nix.path import StorePath

VERSION = 1


class Compose(NamedTuple):
    """`use` is atom, nix or static; `composer` the key of an atom."""

    use: str
    entry: str = "."
    composer: str = ""


class Deps(NamedTuple):
    """Keys: of atoms by set tag and label, of pins, things to get and sources by name.

    `sources` are electrons; their keys are of pins, as they are trees in the store like those.
    """

    atoms: Mapping[str, Mapping[str, str]]
    pins: Mapping[str, str]
    get: Mapping[str, str]
    sources: Mapping[str, str]


class AtomNode(NamedTuple):
    """`source` is where a local atom is on the host; None for one that is in the store.

    `inner` is where it is in the sandbox, `manifest` its parsed atom.toml.
    """

    label: str
    version: str
    id: str
    source: str | None
    inner: str
    compose: Compose
    deps: Deps
    manifest: Mapping[str, object]
    config: Mapping[str, Value]

    def to_json(self) -> dict[str, object]:
        compose = {"use": self.compose.use, "entry": self.compose.entry}
        if self.compose.composer:
            compose["composer"] = self.compose.composer
        deps = {
            "from": self.deps.atoms,
            "pins": self.deps.pins,
            "get": self.deps.get,
            "sources": self.deps.sources,
        }
        return {
            "root": self.inner,
            "compose": compose,
            "package": self.manifest["package"],
            "config": self.config,
            "deps": deps,
        }


class Graph(NamedTuple):
    """A closure of atoms. `root` is a key of `atoms`, or a file in `sources` for what is no atom.

    `sources` are directories that are no atoms: (host, inside). `members` are the manifests of the
    local set, which decide what its labels mean.
    """

    root: str
    atoms: Mapping[str, AtomNode]
    pins: Mapping[str, StorePath]
    get: Mapping[str, Mapping[str, str]]
    config: Config
    sources: tuple[tuple[str, str], ...] = ()
    stored: tuple[StorePath, ...] = ()
    members: tuple[str, ...] = ()

    @property
    def atom(self) -> AtomNode | None:
        return self.atoms.get(self.root)

    def places(self) -> list[tuple[str, str]]:
        """Directories of the host and where they are shown."""
        local = [(atom.source, atom.inner) for atom in self.atoms.values() if atom.source]
        return [*local, *self.sources]

    def store_paths(self) -> list[StorePath]:
        """Inputs that are in the store."""
        return sorted({*self.stored, *self.pins.values()})

    def request(self, mode: Mode, attribute: str) -> bytes:
        root = {"atom": self.root} if self.atom else {"file": self.root}
        data = {
            "version": VERSION,
            "mode": mode,
            "root": root,
            "attr": split_attribute(attribute),
            "attrText": attribute,
            "atoms": {key: atom.to_json() for key, atom in self.atoms.items()},
            "pins": {key: {"path": str(path)} for key, path in self.pins.items()},
            "get": self.get,
            "sources": [inner for _, inner in self.sources],
            "extern": {},
            "config": self.config.values,
            "platforms": self.config.values[PLATFORMS],
        }
        return json.dumps(data, sort_keys=True, ensure_ascii=False, indent=1).encode("utf-8")


def split_attribute(text: str) -> list[str]:
    """`a.b."c.d"` as Nix has it: quotes keep dots together."""
    names, current, quoted = [], "", False
    for character in text:
        if character == '"':
            quoted = not quoted
        elif character == "." and not quoted:
            names.append(current)
            current = ""
        else:
            current += character
    return [*names, current] if text else []
